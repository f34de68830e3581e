/* Reverses memory byte by byte. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	u8 *low = mem, *high = low + len - 1;

	while (low < high) {
		u8 byte = *low;

		*low++ = *high;
		*high-- = byte;
	}
	return *(u64 *)mem;
}
