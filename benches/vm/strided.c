/* Sums words at growing distances, with indexes that stay in a ring. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *words = mem;
	u32 mask = 1023;
	u64 sum = len;

	for (u32 stride = 1; stride < 32; stride += 2)
		for (u32 i = 0; i < 256; i++)
			sum += words[i * stride & mask] ^ i;
	return sum;
}
