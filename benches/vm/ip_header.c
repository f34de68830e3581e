/* IPv4 headers one after another: checks, checksum, fields. */
#include "bench.h"

static inline u64 header(const u8 *p, const u8 *end)
{
	u32 sum = 0, size;

	if (p + 20 > end || p[0] >> 4 != 4)
		return 1;
	size = (p[0] & 15) * 4;
	if (size < 20 || p + size > end || get16be(p + 2) < size)
		return 2;
	for (u32 i = 0; i < size; i += 2)
		sum += get16be(p + i);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	if (p[9] == 6)
		return sum + get32be(p + 12);
	if (p[9] == 17)
		return sum + get32be(p + 16);
	return sum + p[8];
}

RUN(void *mem, u64 len)
{
	u8 *p = mem, *end = p + len;
	u64 sum = 0;

	for (; p + 64 <= end; p += 64) {
		p[0] = 0x45 + (p[1] & 1);
		p[2] &= 7;
		p[9] = p[1] & 2 ? 6 : 17;
		sum = sum * 7 + header(p, end);
	}
	return sum;
}
