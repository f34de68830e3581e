/* Counts bytes by their upper bits on the stack. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u32 counts[32] = { 0 };
	u64 sum = 0;

	for (u64 i = 0; i < len; i++)
		counts[p[i] >> 3]++;
	for (u32 i = 0; i < 32; i++)
		sum = sum * 31 + counts[i];
	return sum;
}
