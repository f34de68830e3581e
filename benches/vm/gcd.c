#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *numbers = mem;
	u64 sum = 0;

	for (u64 i = 0; i + 2 <= len / 4; i += 2) {
		u32 a = numbers[i] | 1, b = numbers[i + 1];

		while (b) {
			u32 rest = a % b;
			a = b;
			b = rest;
		}
		sum += a;
	}
	return sum;
}
