/* Lengths of zero-terminated words. */
#include "bench.h"

static inline u64 length(const char *p, const char *end)
{
	const char *start = p;

	while (p < end && *p)
		p++;
	return p - start;
}

RUN(void *mem, u64 len)
{
	const char *p = mem, *end = p + len;
	u64 sum = 0;

	while (p < end) {
		u64 n = length(p, end);

		sum = sum * 3 + n;
		p += n + 1;
	}
	return sum;
}
