/* Fills memory with one byte. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	u8 *p = mem;
	u8 value = p[len - 1] + 1;

	for (u64 i = 0; i < len; i++)
		p[i] = value;
	return value;
}
