/* Bob Jenkins's one-at-a-time hash, one word of eight bytes after another. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 sum = 0;

	for (u64 i = 0; i + 8 <= len; i += 8) {
		u32 hash = 0;

		for (int k = 0; k < 8; k++) {
			hash += p[i + k];
			hash += hash << 10;
			hash ^= hash >> 6;
		}
		hash += hash << 3;
		hash ^= hash >> 11;
		sum += hash + (hash << 15);
	}
	return sum;
}
