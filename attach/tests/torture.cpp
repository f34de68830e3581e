// Functions that leave in every way a function can leave. `v_*` are probed at
// entry and return, `scenario_*` give 0 if all went as the language says.
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdexcept>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define VICTIM __attribute__((noinline, noclone, noipa, visibility("default")))
#define KEEP __asm__ volatile("" ::: "memory")

extern "C" {

VICTIM int v_leaf(int n) { KEEP; if (n < 0) throw std::runtime_error("negative"); return n * 2; }

struct Counted {
  int *count;
  ~Counted() { ++*count; }
};
static thread_local int destroyed;

VICTIM int v_middle(int n) { Counted c{&destroyed}; int r = v_leaf(n); KEEP; return r + 1; }
VICTIM int v_catch(int n) { try { return v_middle(n) + 1; } catch (std::exception &) { return -1000; } }
VICTIM int v_rethrow(int n) { try { return v_middle(n); } catch (...) { KEEP; throw; } }
VICTIM int v_tail(int n) { KEEP; return v_middle(n); }
VICTIM int v_deep(int n) { KEEP; if (n == 0) return 0; int r = v_deep(n - 1) + 1; KEEP; return r; }
VICTIM int v_deep_throw(int n) { Counted c{&destroyed}; KEEP; if (n == 0) throw 42; int r = v_deep_throw(n - 1) + 1; KEEP; return r; }

static thread_local jmp_buf back;
VICTIM int v_jump(int n) { KEEP; if (n == 0) longjmp(back, 1); int r = v_jump(n - 1) + 1; KEEP; return r; }

VICTIM int v_frames(void **frames, int most) { int n = backtrace(frames, most); KEEP; return n; }
VICTIM int v_nest(int k, void **frames, int most) { int r = k ? v_nest(k - 1, frames, most) : v_frames(frames, most); KEEP; return r; }

VICTIM double v_float(double a, double b) { KEEP; return a * b + 1; }
struct Big { long a[6]; };
VICTIM Big v_big(long x, Big in) { Big b; for (int i = 0; i < 6; i++) b.a[i] = in.a[i] + x; KEEP; return b; }
VICTIM long v_many(long a, long b, long c, long d, long e, long f, long g, long h, long i) { KEEP; return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i; }
VICTIM int v_varargs(const char *format, ...) { char s[64]; va_list l; va_start(l, format); int n = vsnprintf(s, sizeof s, format, l); va_end(l); KEEP; return n == 9 && !strcmp(s, "1 2.5 six"); }
VICTIM long double v_x87(long double a) { KEEP; return a / 3; }

static volatile int asleep;
VICTIM void v_sleep() { Counted c{&destroyed}; asleep = 1; for (;;) usleep(1000); }
VICTIM void v_exit() { Counted c{&destroyed}; KEEP; pthread_exit(&destroyed); }
VICTIM int v_fork() { int pid = fork(); KEEP; return pid; }
VICTIM int v_signal(int x) { KEEP; return x + 1; }
VICTIM int v_setjmp(int n) { jmp_buf b; volatile int seen = 0; if (setjmp(b) < n) { seen = seen + 1; KEEP; longjmp(b, seen); } KEEP; return seen; }

int scenario_exceptions() {
  for (int i = 0; i < 300; i++) {
    destroyed = 0;
    if (v_catch(5) != 12 || v_catch(-1) != -1000) return 1;
    try { v_rethrow(-1); return 2; } catch (std::exception &e) { if (strcmp(e.what(), "negative")) return 3; }
    try { v_tail(-1); return 4; } catch (std::runtime_error &) {}
    if (v_tail(4) != 9) return 5;
    if (destroyed != 5) return 6;
  }
  return 0;
}

int scenario_deep_exceptions() {
  const int depths[] = {0, 1, 100, 20000};
  for (int depth : depths) {
    destroyed = 0;
    try { v_deep_throw(depth); return 1; } catch (int e) { if (e != 42) return 2; }
    if (destroyed != depth + 1) return 3;
  }
  return 0;
}

int scenario_longjmp() {
  for (volatile int i = 0; i < 3000; i = i + 1)
    if (setjmp(back) == 0) { v_jump(i % 20); return 1; }
  if (v_middle(1) != 3) return 2;
  return v_setjmp(50) == 50 ? 0 : 3;
}

int scenario_recursion() { return v_deep(100000) == 100000 ? 0 : 1; }

int scenario_backtrace() {
  void *frames[64];
  int n = v_nest(5, frames, 64);
  int own = 0, caller = 0;
  for (int i = 0; i < n; i++) {
    Dl_info info;
    if (!dladdr(frames[i], &info) || !info.dli_sname) continue;
    own += !strcmp(info.dli_sname, "v_nest");
    caller += !strcmp(info.dli_sname, "scenario_backtrace");
  }
  if (own != 6) return 100 + own;
  return caller == 1 ? 0 : 200 + caller;
}

int scenario_values() {
  if (v_float(3, 4) != 13) return 1;
  Big in{{1, 2, 3, 4, 5, 6}}, out = v_big(10, in);
  for (int i = 0; i < 6; i++) if (out.a[i] != i + 11) return 2;
  if (v_many(1, 2, 3, 4, 5, 6, 7, 8, 9) != 285) return 3;
  if (!v_varargs("%d %g %s", 1, 2.5, "six")) return 4;
  return v_x87(9) == 3 ? 0 : 5;
}

static void *cancelled(void *result) { Counted c{(int *)result}; v_sleep(); return 0; }
static void *exiting(void *result) { Counted c{(int *)result}; v_exit(); return 0; }
int scenario_thread_end() {
  for (int i = 0; i < 10; i++) {
    int outer = 0;
    pthread_t t;
    void *r;
    asleep = 0;
    pthread_create(&t, 0, cancelled, &outer);
    while (!asleep) sched_yield();
    pthread_cancel(t);
    pthread_join(t, &r);
    if (r != PTHREAD_CANCELED || outer != 1) return 1;
    outer = 0;
    pthread_create(&t, 0, exiting, &outer);
    pthread_join(t, &r);
    if (outer != 1) return 2;
  }
  return 0;
}

static ucontext_t main_context, co_context;
static int switched;
VICTIM int v_yield(int n) { swapcontext(&co_context, &main_context); KEEP; return n + 1; }
static void coroutine() { for (int i = 0; i < 1000; i++) switched += v_yield(i) - i; swapcontext(&co_context, &main_context); }
int scenario_contexts() {
  static char stack[65536];
  switched = 0;
  getcontext(&co_context);
  co_context.uc_stack.ss_sp = stack;
  co_context.uc_stack.ss_size = sizeof stack;
  co_context.uc_link = 0;
  makecontext(&co_context, coroutine, 0);
  for (int i = 0; i < 1001; i++) { swapcontext(&main_context, &co_context); if (v_middle(2) != 5) return 1; }
  return switched == 1000 ? 0 : 2;
}

// A coroutine whose frames were entered on one thread and return on another.
static ucontext_t mover, resumer;
static volatile int moved;
VICTIM int v_move(int n) { swapcontext(&mover, &resumer); KEEP; return n + 1; }
static void moving() { moved = v_move(1); swapcontext(&mover, &resumer); }
static void *resume_once(void *) { swapcontext(&resumer, &mover); return 0; }
int scenario_moving_coroutine() {
  static char stack[65536];
  for (int i = 0; i < 20; i++) {
    moved = 0;
    getcontext(&mover);
    mover.uc_stack.ss_sp = stack;
    mover.uc_stack.ss_size = sizeof stack;
    mover.uc_link = 0;
    makecontext(&mover, moving, 0);
    pthread_t t;
    pthread_create(&t, 0, resume_once, 0);
    pthread_join(t, 0);
    pthread_create(&t, 0, resume_once, 0);
    pthread_join(t, 0);
    if (moved != 2) return 1;
  }
  return 0;
}

static void *throwing(void *result) {
  long sum = 0;
  for (int i = 0; i < 1000; i++) sum += v_catch(i % 50 ? i : -1) + v_tail(3);
  *(long *)result = sum;
  return 0;
}
int scenario_threads() {
  pthread_t t[4];
  long sums[4];
  for (int i = 0; i < 4; i++) pthread_create(&t[i], 0, throwing, &sums[i]);
  for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
  for (int i = 1; i < 4; i++) if (sums[i] != sums[0]) return 1;
  return 0;
}

static volatile int handled;
static void on_alarm(int) { handled = v_signal(handled); }
// Signals for this thread only.
static timer_t storm(long first, long every) {
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGALRM;
  event._sigev_un._tid = gettid();
  timer_t timer;
  timer_create(CLOCK_MONOTONIC, &event, &timer);
  itimerspec when = {{0, every * 1000}, {0, first * 1000}};
  timer_settime(timer, 0, &when, 0);
  return timer;
}
static int under_signals(int flags) {
  static char stack[65536];
  stack_t alternate = {}, old;
  alternate.ss_sp = stack;
  alternate.ss_size = sizeof stack;
  sigaltstack(&alternate, &old);
  struct sigaction action = {};
  action.sa_handler = on_alarm;
  action.sa_flags = flags;
  sigaction(SIGALRM, &action, 0);
  handled = 0;
  timer_t timer = storm(100, 100);
  long sum = 0, rounds = 0;
  for (; handled < 300 && rounds < 200000000; rounds++) sum += v_middle(1);
  timer_delete(timer);
  signal(SIGALRM, SIG_IGN);
  sigaltstack(&old, 0);
  return handled < 300 ? 1 : sum == 3 * rounds ? 0 : 2;
}
int scenario_signals() { return under_signals(0); }
int scenario_signals_on_their_own_stack() { return under_signals(SA_ONSTACK); }

static sigjmp_buf out;
static void leave(int) { v_signal(1); siglongjmp(out, 1); }
int scenario_jumping_out_of_signals() {
  struct sigaction action = {};
  action.sa_handler = leave;
  sigaction(SIGALRM, &action, 0);
  for (volatile int i = 0; i < 300; i = i + 1) {
    static timer_t timer;
    if (sigsetjmp(out, 1) == 0) {
      timer = storm(100 + i % 7, 0);
      for (;;) if (v_middle(1) != 3) return 1;
    }
    timer_delete(timer);
  }
  return v_middle(1) == 3 ? 0 : 2;
}

int scenario_fork() {
  for (int i = 0; i < 10; i++) {
    int pid = v_fork();
    if (pid == 0) _exit(v_catch(-1) == -1000 && v_middle(1) == 3 ? 0 : 1);
    int status;
    waitpid(pid, &status, 0);
    if (status) return status;
  }
  return 0;
}
}
