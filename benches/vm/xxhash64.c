#include "bench.h"

#define P1 0x9e3779b185ebca87
#define P2 0xc2b2ae3d27d4eb4f
#define P3 0x165667b19e3779f9
#define P4 0x85ebca77c2b2ae63

static inline u64 lane(u64 v, u64 in)
{
	return rol64(v + in * P2, 31) * P1;
}

static inline u64 merge(u64 hash, u64 v)
{
	return (hash ^ lane(0, v)) * P1 + P4;
}

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 v1 = P1 + P2, v2 = P2, v3 = 0, v4 = -P1, hash;

	for (u64 i = 0; i + 32 <= len; i += 32) {
		v1 = lane(v1, get64(p + i));
		v2 = lane(v2, get64(p + i + 8));
		v3 = lane(v3, get64(p + i + 16));
		v4 = lane(v4, get64(p + i + 24));
	}
	hash = rol64(v1, 1) + rol64(v2, 7) + rol64(v3, 12) + rol64(v4, 18);
	hash = merge(merge(merge(merge(hash, v1), v2), v3), v4) + len;
	hash = (hash ^ hash >> 33) * P2;
	hash = (hash ^ hash >> 29) * P3;
	return hash ^ hash >> 32;
}
