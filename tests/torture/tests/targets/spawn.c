// Processes and threads that come and go in every way, and one that has
// closed its standard files.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static char *empty[] = {0};

static int status_of(pid_t pid) { int s; while (waitpid(pid, &s, 0) < 0) if (errno != EINTR) return -1; return s; }
static char *quiet[] = {"/bin/sh", "-c", "exit 5", 0};
__attribute__((noinline)) static int by_fork(int n) { pid_t p = fork(); if (!p) { char *t = strdup("child"); _exit(strlen(t) == 5 ? n % 7 : 99); } return WEXITSTATUS(status_of(p)); }
__attribute__((noinline)) static int by_vfork(void) { pid_t p = vfork(); if (!p) { execve(quiet[0], quiet, empty); _exit(98); } return WEXITSTATUS(status_of(p)); }
__attribute__((noinline)) static int by_spawn(void) {
  posix_spawn_file_actions_t f; posix_spawnattr_t a; sigset_t all; pid_t p;
  posix_spawn_file_actions_init(&f); posix_spawn_file_actions_addopen(&f, 0, "/dev/null", 0, 0);
  posix_spawnattr_init(&a); sigfillset(&all); posix_spawnattr_setsigdefault(&a, &all); posix_spawnattr_setflags(&a, POSIX_SPAWN_SETSIGDEF);
  if (posix_spawn(&p, quiet[0], &f, &a, quiet, empty)) return -1;
  posix_spawn_file_actions_destroy(&f); posix_spawnattr_destroy(&a);
  return WEXITSTATUS(status_of(p));
}
static int by_popen(void) { FILE *f = popen("unset LD_PRELOAD; echo 17", "r"); int n = -1; if (fscanf(f, "%d", &n) != 1) n = -2; pclose(f); return n; }
static void *thread(void *arg) { char text[40]; snprintf(text, sizeof text, "%ld", (long)arg); char *c = strdup(text); long r = strtol(c, 0, 10); free(c); return (void *)r; }
static void *forks(void *arg) { long sum = 0; for (int i = 0; i < (long)arg; i++) sum += by_fork(i); return (void *)sum; }

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 20;
  unsetenv("LD_PRELOAD");
  long sums[6] = {0};
  pthread_t beside;
  pthread_create(&beside, 0, forks, (void *)(long)rounds);
  for (int i = 0; i < rounds; i++) {
    sums[0] += by_fork(i);
    sums[1] += by_vfork();
    sums[2] += by_spawn();
    if (i % 8 == 0) sums[3] += by_popen();
    for (long k = 0; k < 20; k++) { pthread_t t; void *r; if (pthread_create(&t, 0, thread, (void *)k)) abort(); pthread_join(t, &r); sums[4] += (long)r; }
    if (system("unset LD_PRELOAD; exit 3") != 3 << 8) puts("system");
  }
  void *r; pthread_join(beside, &r); sums[5] = (long)r;
  for (int i = 0; i < 6; i++) printf("%ld\n", sums[i]);
  fflush(stdout);
  // Nothing may be written into what is opened next.
  int keep = dup(1);
  close(0); close(1); close(2);
  int fd = memfd_create("mine", 0);
  for (int i = 0; i < 100; i++) sums[4] += (long)thread((void *)(long)i);
  char text[64]; int n = snprintf(text, sizeof text, "fd %d holds %ld\n", fd, (long)lseek(fd, 0, SEEK_END));
  if (write(keep, text, n) != n) return 9;
  return 6;
}
