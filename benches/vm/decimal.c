/* Decimal numbers in a text, summed. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem, *end = p + len;
	u64 sum = 0;

	while (p < end) {
		u64 n = 0;
		u32 digit;

		while (p < end && (digit = *p - '0') < 10) {
			n = n * 10 + digit;
			p++;
		}
		sum += n;
		p++;
	}
	return sum;
}
