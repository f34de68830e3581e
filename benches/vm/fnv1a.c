#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 hash = 0xcbf29ce484222325;

	for (u64 i = 0; i < len; i++)
		hash = (hash ^ p[i]) * 0x100000001b3;
	return hash;
}
