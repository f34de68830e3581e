/* What a program reports; bpftime build reads it, too. */
#ifndef EVENT_H
#define EVENT_H

struct event {
	int pid;
	char comm[16];
	char path[128];
};

#endif
