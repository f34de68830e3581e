#include "bench.h"

RUN(void *mem, u64 len)
{
	u64 a = *(u64 *)mem, b = 1;

	for (u64 i = 0; i < len; i++) {
		u64 next = a + b;
		a = b;
		b = next ^ i;
	}
	return a;
}
