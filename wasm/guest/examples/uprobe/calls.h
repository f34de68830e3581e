/* What the program tells the guest of one call. */
#ifndef CALLS_H
#define CALLS_H

#define COMM_SIZE 16

struct call {
	unsigned int pid;
	char comm[COMM_SIZE];
	/* The first two arguments. Longer than the guest's own `long`. */
	long first;
	long second;
};

#endif /* CALLS_H */
