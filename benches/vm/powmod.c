/* Modular powers with a modulus that is not known to the compiler. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *numbers = mem;
	u64 modulus = numbers[0] | 1, sum = 0;

	for (u64 i = 1; i < len / 64; i++) {
		u64 base = numbers[i] % modulus, power = 1;

		for (u32 e = 65537; e; e >>= 1) {
			if (e & 1)
				power = power * base % modulus;
			base = base * base % modulus;
		}
		sum += power;
	}
	return sum;
}
