/* Integer square roots, bit by bit. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *numbers = mem;
	u64 sum = 0;

	for (u64 i = 0; i < len / 16; i++) {
		u32 n = numbers[i], root = 0;

		for (u32 bit = 1u << 30; bit; bit >>= 2) {
			if (n >= root + bit) {
				n -= root + bit;
				root = (root >> 1) + bit;
			} else {
				root >>= 1;
			}
		}
		sum += root;
	}
	return sum;
}
