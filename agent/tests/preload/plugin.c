// A library whose constructor calls the probed function.
__attribute__((noinline)) long plugin_work(long a) {
	__asm__ volatile("" ::: "memory");
	return a + 1;
}

__attribute__((constructor)) static void construct(void) {
	for (long i = 0; i < 10; i++)
		plugin_work(i);
}
