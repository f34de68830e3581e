/* RC4; the permutation is in the upper part of memory. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u8 *s = mem + len / 2;
	u8 j = 0;
	u64 sum = 0;

	for (u32 i = 0; i < 256; i++)
		s[i] = i;
	for (u32 i = 0; i < 256; i++) {
		u8 t = s[i];

		j += t + p[i & 15];
		s[i] = s[j];
		s[j] = t;
	}
	j = 0;
	for (u64 k = 0; k < len / 2; k++) {
		u8 i = k + 1, t = s[i];

		j += t;
		s[i] = s[j];
		s[j] = t;
		sum = sum * 31 + (p[k] ^ s[(u8)(s[i] + t)]);
	}
	return sum;
}
