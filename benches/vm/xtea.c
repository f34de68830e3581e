#include "bench.h"

RUN(void *mem, u64 len)
{
	const u32 *words = mem;
	u32 key[4] = { words[0], words[1], words[2], words[3] };
	u64 sum = 0;

	for (u64 i = 4; i + 2 <= len / 4; i += 2) {
		u32 a = words[i], b = words[i + 1], round = 0;

		for (int k = 0; k < 32; k++) {
			a += ((b << 4 ^ b >> 5) + b) ^ (round + key[round & 3]);
			round += 0x9e3779b9;
			b += ((a << 4 ^ a >> 5) + a) ^ (round + key[round >> 11 & 3]);
		}
		sum ^= (u64)a << 32 | b;
	}
	return sum;
}
