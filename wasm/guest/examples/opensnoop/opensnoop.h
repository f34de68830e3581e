/* A file that somebody opened, or tried to. */
#ifndef OPENSNOOP_H
#define OPENSNOOP_H

#define COMM_SIZE 16
#define PATH_SIZE 128

struct open_event {
	unsigned int pid;
	/* The fd, or a negated errno. */
	int result;
	char comm[COMM_SIZE];
	char path[PATH_SIZE];
};

#endif /* OPENSNOOP_H */
