/* Letters to upper case, in place, and back. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	u8 *p = mem;
	u64 changed = 0;

	for (u64 i = 0; i < len; i++) {
		if (p[i] >= 'a' && p[i] <= 'z') {
			p[i] -= 32;
			changed++;
		} else if (p[i] >= 'A' && p[i] <= 'Z') {
			p[i] += 32;
			changed += 2;
		}
	}
	return changed;
}
