/* Signed numbers of all sizes: sign extension, division, comparison. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const s8 *bytes = mem;
	const s16 *halves = mem;
	const s32 *words = mem;
	s64 sum = 0;

	for (u64 i = 0; i < len / 4; i++) {
		s32 by = bytes[i];
		s64 part = words[i];

		if (by < -4 || by > 4)
			part /= by;
		sum += part % 1000 + halves[i];
		if (sum < 0)
			sum = -sum / 2;
	}
	return sum;
}
