/* Counts bytes by value in a per-CPU array. */
#include "bench.h"

MAP counts = { PERCPU_ARRAY, 4, 8, 256 };

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 sum = 0;

	for (u64 i = 0; i < len; i++) {
		u32 key = p[i];
		u64 *count = map_lookup(&counts, &key);

		if (count)
			sum += ++*count;
	}
	return sum;
}
