/* Primes below the size of memory. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	u8 *composite = mem;
	u64 primes = 0;

	for (u64 i = 0; i < len; i++)
		composite[i] = 0;
	for (u64 i = 2; i < len; i++) {
		if (composite[i])
			continue;
		primes++;
		for (u64 k = i * i; k < len; k += i)
			composite[k] = 1;
	}
	return primes;
}
