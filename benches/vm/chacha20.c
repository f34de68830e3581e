/* ChaCha20 with the state on the stack; the key is in memory. */
#include "bench.h"

#define QUARTER(a, b, c, d)                                                    \
	x[a] += x[b], x[d] = rol32(x[d] ^ x[a], 16);                           \
	x[c] += x[d], x[b] = rol32(x[b] ^ x[c], 12);                           \
	x[a] += x[b], x[d] = rol32(x[d] ^ x[a], 8);                            \
	x[c] += x[d], x[b] = rol32(x[b] ^ x[c], 7)

RUN(void *mem, u64 len)
{
	const u32 *key = mem;
	u32 state[16] = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 };
	u32 x[16];
	u64 sum = 0;

	for (int i = 0; i < 11; i++)
		state[4 + (i < 8 ? i : i + 1)] = key[i];
	for (u32 block = 0; block < len / 64; block++) {
		state[12] = block;
		for (int i = 0; i < 16; i++)
			x[i] = state[i];
		for (int round = 0; round < 10; round++) {
			QUARTER(0, 4, 8, 12);
			QUARTER(1, 5, 9, 13);
			QUARTER(2, 6, 10, 14);
			QUARTER(3, 7, 11, 15);
			QUARTER(0, 5, 10, 15);
			QUARTER(1, 6, 11, 12);
			QUARTER(2, 7, 8, 13);
			QUARTER(3, 4, 9, 14);
		}
		for (int i = 0; i < 16; i++)
			sum = rol64(sum, 5) ^ (x[i] + state[i]);
	}
	return sum;
}
