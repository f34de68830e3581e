/* A function of five arguments that uses its stack. */
#include "bench.h"

static noinline u64 blend(const u8 *p, u64 a, u64 b, u32 c, u32 d)
{
	volatile u64 kept = a + c;

	a = rol64(a ^ b, 9) + p[c & 7];
	b = rol64(b + d, 27) ^ kept;
	return a * 5 + b;
}

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 a = 1, b = 2;

	for (u64 i = 0; i + 8 <= len; i += 8) {
		a = blend(p + i, a, b, i, p[i]);
		b = blend(p + i, b, a, p[i + 1], i);
	}
	return a ^ b;
}
