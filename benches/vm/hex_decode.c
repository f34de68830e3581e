/* Hexadecimal digits, made in the second half of memory, back to bytes. */
#include "bench.h"

static noinline s32 digit(u8 c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 32;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u8 *text = mem + len / 2;
	u64 sum = 0;

	for (u64 i = 0; i < len / 4; i++) {
		text[2 * i] = "0123456789abcdef"[p[i] >> 4];
		text[2 * i + 1] = "0123456789ABCDEF"[p[i] & 15];
	}
	for (u64 i = 0; i < len / 4; i++) {
		s32 high = digit(text[2 * i]), low = digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return ~0ull;
		sum = sum * 31 + high * 16 + low;
	}
	return sum;
}
