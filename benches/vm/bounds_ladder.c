/* Headers within headers, each length checked before a field is read. */
#include "bench.h"

static inline u64 packet(const u8 *p, const u8 *end)
{
	u64 key;

	if (p + 14 > end)
		return 0;
	key = get16be(p + 12);
	p += 14;
	if (p + 4 > end)
		return key;
	key = key << 7 ^ get32(p);
	p += 4;
	if (p + 20 > end)
		return key;
	key ^= get32be(p + 12) + ((u64)get32be(p + 16) << 32);
	p += 20 + (p[0] & 3) * 4;
	if (p + 8 > end)
		return key;
	key += get64(p);
	p += 8 + (p[1] & 7);
	if (p + 16 > end)
		return key;
	return key ^ get64(p) ^ get64(p + 8);
}

RUN(void *mem, u64 len)
{
	const u8 *p = mem, *end = p + len;
	u64 sum = 0;

	for (; p < end; p += 24)
		sum = sum * 3 + packet(p, p + 96 < end ? p + 96 : end);
	return sum;
}
