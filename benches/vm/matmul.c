/* Product of two 16×16 matrices. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *a = mem, *b = a + 256;
	u32 *product = mem + 2048;
	u64 sum = len;

	for (int i = 0; i < 16; i++)
		for (int j = 0; j < 16; j++) {
			u32 cell = 0;

			for (int k = 0; k < 16; k++)
				cell += a[16 * i + k] * b[16 * k + j];
			product[16 * i + j] = cell;
			sum += cell;
		}
	return sum;
}
