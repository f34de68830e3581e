/* Numbers of seven bits a byte, as in protocol buffers. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem, *end = p + len;
	u64 sum = 0;

	while (p < end) {
		u64 n = 0;
		u32 shift = 0;

		while (p < end && *p & 128 && shift < 63) {
			n |= (u64)(*p++ & 127) << shift;
			shift += 7;
		}
		if (p < end)
			n |= (u64)*p++ << shift;
		sum += (n >> 1) ^ -(n & 1);
	}
	return sum;
}
