/* Compares memory with itself, shifted by each of the first distances. */
#include "bench.h"

static inline int compare(const u8 *a, const u8 *b, u64 size)
{
	for (u64 i = 0; i < size; i++)
		if (a[i] != b[i])
			return a[i] - b[i];
	return 0;
}

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 sum = 0;

	for (u64 shift = 0; shift < 64; shift++)
		sum = sum * 3 + compare(p, p + shift, len - shift);
	return sum;
}
