/* Sorts runs of 16 words, copied to the second half of memory. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *words = mem;
	u32 *v = mem + len / 2;
	u64 sum = 0;

	for (u64 start = 0; start + 16 <= len / 8; start += 16) {
		for (u64 i = start; i < start + 16; i++) {
			u32 word = words[i];
			u64 j = i;

			while (j > start && v[j - 1] > word) {
				v[j] = v[j - 1];
				j--;
			}
			v[j] = word;
		}
		sum = sum * 3 + v[start + 5];
	}
	return sum;
}
