/* A lexer: numbers, names, spaces, comments. */
#include "bench.h"

RUN(void *mem, u64 len)
{
	const u8 *p = mem;
	enum { SPACE, NUMBER, NAME, SLASH, COMMENT, OTHER } state = SPACE;
	u64 tokens = 0;

	for (u64 i = 0; i < len; i++) {
		u8 c = p[i];

		if (state == COMMENT) {
			if (c == '\n')
				state = SPACE;
			continue;
		}
		if (c == ' ' || c == '\n' || c == '\t') {
			state = SPACE;
		} else if (c >= '0' && c <= '9') {
			if (state != NUMBER && state != NAME) {
				state = NUMBER;
				tokens += 1;
			}
		} else if ((c | 32) >= 'a' && (c | 32) <= 'z') {
			if (state != NAME)
				tokens += 1 << 16;
			state = NAME;
		} else if (c == '/') {
			if (state == SLASH)
				tokens += 1ull << 32;
			state = state == SLASH ? COMMENT : SLASH;
		} else {
			state = OTHER;
			tokens += 1ull << 48;
		}
	}
	return tokens;
}
