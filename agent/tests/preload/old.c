// A library with a system call of the kind that 32-bit programs make.
long by_int80(void) {
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
	return result;
}
