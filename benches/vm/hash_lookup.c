/* Counts words by their low bits in a hash map. */
#include "bench.h"

MAP counts = { HASH, 8, 8, 1024 };

RUN(void *mem, u64 len)
{
	const u64 *words = mem;
	u64 sum = 0;

	for (u64 i = 0; i < len / 8; i++) {
		u64 key = words[i] & 255, one = 1;
		u64 *count = map_lookup(&counts, &key);

		if (count)
			sum += ++*count;
		else
			map_update(&counts, &key, &one, 0);
	}
	return sum;
}
