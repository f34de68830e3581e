/* MurmurHash3, 32 bits. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u32 hash = 0x9747b28c;

	for (u64 i = 0; i + 4 <= len; i += 4) {
		u32 k = get32(p + i) * 0xcc9e2d51;

		k = rol32(k, 15) * 0x1b873593;
		hash = rol32(hash ^ k, 13) * 5 + 0xe6546b64;
	}
	hash ^= len;
	hash = (hash ^ hash >> 16) * 0x85ebca6b;
	hash = (hash ^ hash >> 13) * 0xc2b2ae35;
	return hash ^ hash >> 16;
}
