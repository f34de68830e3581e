// Frames that end otherwise than by return, through functions of libc,
// libstdc++ and the unwinder that are all probed. Every line is the same
// each time.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <execinfo.h>
#include <csetjmp>
#include <future>
#include <new>
#include <pthread.h>
#include <search.h>
#include <signal.h>
#include <stdexcept>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#define APART __attribute__((noinline, noclone, noipa))
static int destroyed;
struct Counted { ~Counted() { destroyed++; } };

APART int fails(int n) { Counted c; if (n % 3 == 0) throw std::runtime_error("fails " + std::to_string(n)); return n; }
APART int passes(int n) { Counted c; return fails(n) + 1; }
APART int again(int n) { try { return passes(n); } catch (std::exception &) { throw; } }
APART int nested(int n) {
  try { return again(n); } catch (std::exception &e) {
    try { throw std::logic_error(std::string(e.what()) + " in it"); } catch (std::logic_error &inner) {
      try { std::throw_with_nested(std::domain_error(inner.what())); } catch (std::domain_error &both) {
        try { std::rethrow_if_nested(both); } catch (std::logic_error &deep) { return (int)strlen(deep.what()); }
      }
    }
  }
  return -1;
}
APART int deep(int n) { Counted c; if (!n) throw 7; int r = deep(n - 1); asm volatile(""); return r + 1; }

// Through frames of libc: it has unwind tables, and the exception passes.
static int compares(const void *a, const void *b) {
  int x = *(const int *)a, y = *(const int *)b;
  if (x == 13 || y == 13) throw std::out_of_range("thirteen");
  return x - y;
}
APART bool sorts(int from) {
  int values[64];
  for (int i = 0; i < 64; i++) values[i] = from + (i * 37) % 64;
  try { qsort(values, 64, sizeof(int), compares); } catch (std::out_of_range &) { return false; }
  return std::is_sorted(values, values + 64);
}

static jmp_buf out;
APART int jumps(int n) { if (!n) longjmp(out, 5); int r = jumps(n - 1); asm volatile(""); return r; }
static int jumping(const void *, const void *) { longjmp(out, 6); }

APART int frames() {
  void *found[32];
  int n = backtrace(found, 32);
  char **names = backtrace_symbols(found, n);
  int own = 0;  // The others are libc's, and one for the return of each probed frame.
  for (int i = 0; i < n; i++) own += strstr(names[i], "/target(") != nullptr;
  free(names);
  return own;
}
static int seen;
static int framing(const void *a, const void *b) { seen = frames(); return *(const int *)a - *(const int *)b; }

static void *sleeps(void *result) {
  struct Guard { int *r; ~Guard() { ++*r; } } guard{(int *)result};
  for (;;) { char c; int p[2]; if (pipe(p)) abort(); pthread_cleanup_push([](void *p) { close(((int *)p)[0]); close(((int *)p)[1]); }, p); if (read(p[0], &c, 1) < 0) abort(); pthread_cleanup_pop(1); }
  return nullptr;
}
static void *leaves(void *result) { Counted c; ++*(int *)result; pthread_exit(result); }

static int dies(void (*how)()) {
  fflush(stdout);
  pid_t pid = fork();
  if (!pid) { close(2); how(); _exit(0); }
  int status;
  waitpid(pid, &status, 0);
  return status;
}
APART static void forbids() noexcept { passes(3); }
static void unknown() { passes(3); }
static void asserts() { std::set_terminate([] { _exit(frames()); }); forbids(); }

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 100;
  long sums[8] = {};
  for (int i = 0; i < rounds; i++) {
    try { sums[0] += passes(i); } catch (std::runtime_error &e) { sums[0] += (long)strlen(e.what()); }
    sums[1] += nested(i);
    try { deep(i % 500); } catch (int e) { sums[2] += e; }
    sums[3] += sorts(14) * 2 + sorts(0);
    if (setjmp(out) == 0) jumps(i % 50); else sums[4]++;
    int two[2] = {2, 1};
    int how = setjmp(out);
    if (!how) qsort(two, 2, sizeof(int), jumping); else sums[4] += how;
    qsort(two, 2, sizeof(int), framing);
    sums[5] += seen;
    try { std::async(std::launch::async, [i] { return again(i * 3); }).get(); } catch (std::exception &e) { sums[6] += (long)strlen(e.what()); }
    try { std::string().at(3); } catch (std::out_of_range &) { sums[7]++; }
    try { std::vector<int>().reserve((size_t)-1); } catch (std::length_error &) { sums[7]++; }
    try { (void)!operator new((size_t)-1 >> 1); } catch (std::bad_alloc &) { sums[7]++; }
  }
  for (long sum : sums) printf("%ld\n", sum);
  int cancelled = 0, left = 0;
  // libc ends threads by libgcc's unwinder, whatever the program's is.
  for (int i = 0; i < rounds / 4 && argc < 3; i++) {
    pthread_t t;
    void *r;
    pthread_create(&t, nullptr, sleeps, &cancelled);
    if (i % 2) usleep(100);
    pthread_cancel(t);
    pthread_join(t, &r);
    if (r != PTHREAD_CANCELED) puts("not cancelled");
    pthread_create(&t, nullptr, leaves, &left);
    pthread_join(t, &r);
    if (r != &left) puts("no value");
  }
  printf("%d left, destroyed %d\n", left, destroyed);
  printf("forbids %x unknown %x asserts %x\n", dies(forbids), dies(unknown), dies(asserts));
}
