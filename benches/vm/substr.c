/* Counts where a short word occurs in a text. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 found = 0;

	for (u64 i = 0; i + 5 <= len; i++) {
		u64 k = 0;

		while (k < 5 && p[i + k] == "abcda"[k])
			k++;
		if (k == 5)
			found += i;
	}
	return found;
}
