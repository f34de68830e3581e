// Signals every 100 us on threads that work, on their stack, on another, and
// out of handlers by jumps; and threads that block them all.
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static __thread sigjmp_buf out;
static __thread volatile sig_atomic_t may_jump;
static volatile long handled[3];

static void counts(int s) { char text[32]; int saved = strlen("x"); snprintf(text, sizeof text, "%d", s); handled[0] += saved; }
static void jumps(int s) { (void)s; handled[1]++; if (may_jump) siglongjmp(out, 1); }
static void profiles(int s, siginfo_t *i, void *c) { (void)s; (void)i; (void)c; handled[2]++; }

static int by_value(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
// Functions that may be left by a jump hold no lock.
__attribute__((noinline)) static long pure(int n) {
  int v[64]; char text[64];
  for (int i = 0; i < 64; i++) v[i] = (i * 37 + n) % 64;
  qsort(v, 64, sizeof *v, by_value);
  memset(text, 'a' + n % 20, sizeof text - 1); text[63] = 0;
  return v[10] + (long)strlen(text) + (long)strspn(text, "abc") + atoi("12") + labs(-3);
}
__attribute__((noinline)) static long work(int n) {
  char text[128];
  snprintf(text, sizeof text, "%d %g %s", n % 100, n % 7 * 0.5, "words");
  char *copy = strdup(text);
  long r = (long)strlen(copy) + strtol(copy, 0, 10);
  free(copy);
  return r + pure(n);
}
static timer_t storm(int signal, long ns) {
  struct sigevent e; memset(&e, 0, sizeof e);
  e.sigev_notify = SIGEV_THREAD_ID; e.sigev_signo = signal; e._sigev_un._tid = gettid();
  timer_t t; struct itimerspec w = {{0, ns}, {0, ns}};
  if (timer_create(CLOCK_MONOTONIC, &e, &t)) abort();
  timer_settime(t, 0, &w, 0);
  return t;
}
static int rounds;
static long expected[512];
static int wrong;
static void *busy(void *arg) {
  long way = (long)arg;
  stack_t s = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
  sigaltstack(&s, 0);
  timer_t t = storm(way == 1 ? SIGUSR1 : SIGALRM, 100000);
  timer_t u = storm(SIGPROF, 100000);
  for (volatile int i = 0; i < rounds; i = i + 1) {
    if (way == 1) {
      if (!sigsetjmp(out, 1)) { may_jump = 1; for (int k = 0; k < 50; k++) if (pure(k) != expected[256 + k]) wrong = 1; }
      may_jump = 0;
    } else {
      for (int k = 0; k < 50; k++) if (work(k) != expected[k]) wrong = 1;
    }
  }
  timer_delete(t); timer_delete(u);
  return 0;
}
static void *deaf(void *arg) {
  sigset_t all; sigfillset(&all); pthread_sigmask(SIG_SETMASK, &all, 0);
  for (int i = 0; i < rounds; i++) for (int k = 0; k < 50; k++) if (work(k) != expected[k]) wrong = 1;
  return arg;
}
int main(int argc, char **argv) {
  rounds = argc > 1 ? atoi(argv[1]) : 100;
  struct sigaction a; memset(&a, 0, sizeof a);
  a.sa_handler = counts; a.sa_flags = SA_RESTART; sigaction(SIGALRM, &a, 0);
  a.sa_handler = jumps; a.sa_flags = SA_ONSTACK; sigaction(SIGUSR1, &a, 0);
  a.sa_sigaction = profiles; a.sa_flags = SA_ONSTACK | SA_SIGINFO | SA_RESTART; sigaction(SIGPROF, &a, 0);
  for (int k = 0; k < 50; k++) { expected[k] = work(k); expected[256 + k] = pure(k); }
  pthread_t t[6];
  for (long i = 0; i < 4; i++) pthread_create(&t[i], 0, busy, (void *)(i % 2));
  for (long i = 4; i < 6; i++) pthread_create(&t[i], 0, deaf, 0);
  for (int i = 0; i < 6; i++) pthread_join(t[i], 0);
  printf("%s, signals %s\n", wrong ? "wrong" : "right", handled[0] && handled[1] && handled[2] ? "came" : "did not come");
}
