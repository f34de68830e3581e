/* Copies the first half over the second, in words. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u64 *from = mem;
	u64 *to = mem + len / 2;

	for (u64 i = 0; i < len / 16; i++)
		to[i] = from[i];
	return to[len / 16 - 1] ^ to[7];
}
