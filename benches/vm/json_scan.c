/* Depth, strings and commas of a text that looks like JSON. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	u64 commas = 0, deepest = 0, in_strings = 0, quotes = 0;
	u32 depth = 0, quoted = 0, escaped = 0;

	for (u64 i = 0; i < len; i++) {
		u8 c = p[i];

		if (quoted) {
			in_strings++;
			if (escaped)
				escaped = 0;
			else if (c == '\\')
				escaped = 1;
			else if (c == '"')
				quoted = 0;
			continue;
		}
		switch (c) {
		case '"':
			quoted = 1;
			quotes++;
			break;
		case '{':
		case '[':
			if (++depth > deepest)
				deepest = depth;
			break;
		case '}':
		case ']':
			if (depth)
				depth--;
			break;
		case ',':
			commas += depth;
			break;
		}
	}
	return commas << 32 ^ deepest << 24 ^ in_strings << 8 ^ quotes;
}
