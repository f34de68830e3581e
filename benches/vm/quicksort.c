/* Sorts a copy of the first half of memory, with a stack of its own. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	u32 count = len / 8, depth = 1;
	const u32 *words = mem;
	u32 *v = mem + len / 2;
	u32 lows[32], highs[32];
	u64 sum = 0;

	for (u32 i = 0; i < count; i++)
		v[i] = words[i];
	lows[0] = 0;
	highs[0] = count - 1;
	while (depth) {
		u32 low = lows[--depth & 31], high = highs[depth & 31];

		while (low < high) {
			u32 pivot = v[low + (high - low) / 2], i = low, j = high;

			for (;;) {
				while (v[i] < pivot)
					i++;
				while (v[j] > pivot)
					j--;
				if (i >= j)
					break;
				u32 t = v[i];
				v[i++] = v[j];
				v[j--] = t;
			}
			/* The larger part waits. */
			if (j - low > high - j - 1) {
				lows[depth & 31] = low;
				highs[depth++ & 31] = j;
				low = j + 1;
			} else {
				lows[depth & 31] = j + 1;
				highs[depth++ & 31] = high;
				high = j;
			}
		}
	}
	for (u32 i = 0; i < count; i++)
		sum = sum * 3 + v[i];
	return sum;
}
