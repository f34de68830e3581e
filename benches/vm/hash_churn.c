/* Puts keys into a hash map and takes others out. */
#include "bench.h"

MAP seen = { HASH, 4, 8, 512 };

RUN(void *mem, u64 len)
{
	const u32 *words = mem;
	u64 failures = 0;

	for (u64 i = 0; i + 1 < len / 4; i++) {
		u32 key = words[i] & 255, other = words[i + 1] & 255;
		u64 value = i;

		failures += map_update(&seen, &key, &value, 0) != 0;
		failures += map_delete(&seen, &other) != 0;
	}
	return failures;
}
