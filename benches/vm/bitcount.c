/* Bits counted by masks, and shifts by amounts from memory. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u64 *words = mem;
	u64 sum = 0;

	for (u64 i = 0; i < len / 8; i++) {
		u64 x = words[i], y = x;

		x -= x >> 1 & 0x5555555555555555;
		x = (x & 0x3333333333333333) + (x >> 2 & 0x3333333333333333);
		x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0f;
		x = x * 0x0101010101010101 >> 56;
		sum = sum * 3 + x + (y >> x) + (y << (y & 63));
	}
	return sum;
}
