#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u32 a = 1, b = 0;

	for (u64 i = 0; i < len; i++) {
		a = (a + p[i]) % 65521;
		b = (b + a) % 65521;
	}
	return b << 16 | a;
}
