/* SipHash-2-4. */
#include "bench.h"

#define ROUND                                                                  \
	v0 += v1, v1 = rol64(v1, 13) ^ v0, v0 = rol64(v0, 32);                 \
	v2 += v3, v3 = rol64(v3, 16) ^ v2;                                     \
	v0 += v3, v3 = rol64(v3, 21) ^ v0;                                     \
	v2 += v1, v1 = rol64(v1, 17) ^ v2, v2 = rol64(v2, 32)

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 k0 = get64(p), k1 = get64(p + 8);
	u64 v0 = k0 ^ 0x736f6d6570736575, v1 = k1 ^ 0x646f72616e646f6d;
	u64 v2 = k0 ^ 0x6c7967656e657261, v3 = k1 ^ 0x7465646279746573;

	for (u64 i = 16; i + 8 <= len; i += 8) {
		u64 m = get64(p + i);

		v3 ^= m;
		ROUND;
		ROUND;
		v0 ^= m;
	}
	v3 ^= len << 56;
	ROUND;
	ROUND;
	v0 ^= len << 56;
	v2 ^= 0xff;
	ROUND;
	ROUND;
	ROUND;
	ROUND;
	return v0 ^ v1 ^ v2 ^ v3;
}
