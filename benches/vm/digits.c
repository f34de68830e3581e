/* Sums of decimal digits: division by a constant. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u64 *numbers = mem;
	u64 sum = 0;

	for (u64 i = 0; i < len / 32; i++)
		for (u64 n = numbers[i]; n; n /= 10)
			sum += n % 10;
	return sum;
}
