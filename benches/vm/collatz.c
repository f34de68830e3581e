#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *seeds = mem;
	u64 steps = 0;

	for (u64 i = 0; i < len / 64; i++) {
		u64 n = (seeds[i] & 0xffff) + 1;

		while (n != 1) {
			n = n & 1 ? 3 * n + 1 : n / 2;
			steps++;
		}
	}
	return steps;
}
