/* Counts code points and bad bytes of a text in UTF-8. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 points = 0, bad = 0, sum = 0;
	u64 i = 0;

	while (i < len) {
		u8 c = p[i++];
		u32 more = 0, point = c;

		if (c >= 0xf0 && c < 0xf8)
			more = 3, point = c & 7;
		else if (c >= 0xe0)
			more = 2, point = c & 15;
		else if (c >= 0xc2)
			more = 1, point = c & 31;
		else if (c >= 0x80)
			bad++;
		while (more && i < len && (p[i] & 0xc0) == 0x80) {
			point = point << 6 | (p[i++] & 63);
			more--;
		}
		bad += more;
		points++;
		sum += point;
	}
	return points << 40 ^ bad << 32 ^ sum;
}
