/* A chain of functions that the compiler may not inline. */
#include "bench.h"

static noinline u64 mix(u64 a, u64 b)
{
	return (a ^ b >> 7) * 0x9e3779b97f4a7c15;
}

static noinline u64 both(u64 a, u64 b, u64 c)
{
	return mix(a, b) + mix(b, c);
}

static noinline u64 three(const u64 *p, u64 a)
{
	return both(p[0], p[1], a) ^ both(p[2], p[3], a);
}

RUN(void *mem, u64 len)
{
	const u64 *words = mem;
	u64 sum = 0;

	for (u64 i = 0; i + 4 <= len / 8; i += 4)
		sum = three(words + i, sum);
	return sum;
}
