/* Compares zero-terminated words with the one before them. */
#include "bench.h"

static inline int compare(const u8 *a, const u8 *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a - *b;
}

RUN(void *mem, u64 len)
{
	u8 *p = mem, *last = p;
	u64 sum = 0;

	p[len - 1] = 0;
	for (u64 i = 1; i < len; i++) {
		if (p[i - 1])
			continue;
		sum = sum * 5 + compare(last, p + i) + 256;
		last = p + i;
	}
	return sum;
}
