// A target that does what its commands on stdin say, one letter each, and
// answers each with one line. `work` is the probed function.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noinline)) long work(long a, long b) {
	__asm__ volatile("" ::: "memory");
	return a * 3 + b;
}

static void thousand(void) {
	for (long i = 0; i < 1000; i++)
		if (work(i, 1) != i * 3 + 1)
			abort();
}

static void *late(void *arg) {
	(void)arg;
	usleep(100 * 1000);
	thousand();
	return NULL;
}

static int wait_for(pid_t pid) {
	int status = -1;
	waitpid(pid, &status, 0);
	return status;
}

int main(int argc, char **argv) {
	if (argc > 1 && strcmp(argv[1], "once") == 0) {
		thousand();
		return 0;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	for (int c; (c = getchar()) != EOF;) {
		switch (c) {
		case 'w':
			thousand();
			puts("worked");
			break;
		case 'f': {
			pid_t pid = fork();
			if (pid == 0) {
				thousand();
				_exit(0);
			}
			printf("forked %d\n", wait_for(pid));
			break;
		}
		case 'F': {
			// A child that lives until the next command.
			pid_t pid = fork();
			if (pid == 0)
				break;
			printf("child %d\n", wait_for(pid));
			return 0;
		}
		case 'm':
			printf("locked %d\n", mlockall(MCL_CURRENT | MCL_FUTURE));
			break;
		case 'u':
			printf("changed %d\n", setgid(1000) || setuid(1000));
			break;
		case 'r':
			printf("changed %d\n", chroot("/usr"));
			break;
		case 's': {
			pid_t pid;
			char *args[] = {argv[0], "once", NULL};
			extern char **environ;
			posix_spawn(&pid, "/proc/self/exe", NULL, NULL, args, environ);
			printf("spawned %d\n", wait_for(pid));
			break;
		}
		case 'o': {
			void *lib = dlopen(argv[1], RTLD_NOW);
			printf("opened %d\n", lib != NULL);
			if (lib)
				dlclose(lib);
			break;
		}
		case 'x': {
			pthread_t thread;
			pthread_create(&thread, NULL, late, NULL);
			pthread_exit(NULL);
		}
		}
	}
	return 0;
}
