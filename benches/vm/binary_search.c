/* Looks words up in a table that the program makes in the second half. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *words = mem;
	u32 *table = mem + len / 2;
	u64 count = len / 8, sum = 0;

	for (u64 i = 0; i < count; i++)
		table[i] = i * 8388608 + (i & 7);
	for (u64 i = 0; i < count; i++) {
		u64 low = 0, high = count;

		while (low < high) {
			u64 middle = (low + high) / 2;

			if (table[middle] < words[i])
				low = middle + 1;
			else
				high = middle;
		}
		sum += low;
	}
	return sum;
}
