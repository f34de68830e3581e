/* Numbers of both byte orders at every address. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 sum = 0;

	for (u64 i = 0; i + 8 <= len; i++)
		sum += get64(p + i) ^ get32be(p + i) ^ get16be(p + i + 3);
	return sum;
}
