/* What a map holds for each process; bpftime build reads it, too. */
#ifndef HIST_H
#define HIST_H

#define MAX_SLOTS 26

struct hist {
	__u32 slots[MAX_SLOTS];
	char comm[16];
};

#endif
