/* Base64 of the first quarter of memory, written to the second half. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	static const char letters[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const u8 *p = mem;
	u8 *out = mem + len / 2;
	u64 sum = 0;

	for (u64 i = 0; i + 3 <= len / 4; i += 3) {
		u32 bits = (u32)p[i] << 16 | p[i + 1] << 8 | p[i + 2];

		*out++ = letters[bits >> 18];
		*out++ = letters[bits >> 12 & 63];
		*out++ = letters[bits >> 6 & 63];
		*out++ = letters[bits & 63];
		sum += out[-1] + out[-3];
	}
	return sum;
}
