/* The method of a request at every offset of a text. */
#include "bench.h"

static inline int method(const u8 *p)
{
	switch (p[0]) {
	case 'G':
		return p[1] == 'E' && p[2] == 'T' && p[3] == ' ' ? 1 : 0;
	case 'P':
		if (p[1] == 'O' && p[2] == 'S' && p[3] == 'T' && p[4] == ' ')
			return 2;
		if (p[1] == 'U' && p[2] == 'T' && p[3] == ' ')
			return 3;
		return 0;
	case 'D':
		return p[1] == 'E' && p[2] == 'L' && p[3] == 'E' && p[4] == 'T' && p[5] == 'E' ? 4 : 0;
	case 'H':
		return p[1] == 'E' && p[2] == 'A' && p[3] == 'D' && p[4] == ' ' ? 5 : 0;
	}
	return 0;
}

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 sum = 0;

	for (u64 i = 0; i + 8 <= len; i++)
		sum = sum * 3 + method(p + i);
	return sum;
}
