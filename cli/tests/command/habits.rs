//! Processes with habits of their own: handlers for every signal, no fd kept,
//! another user, another program every few milliseconds. They are attached to
//! and detached from meanwhile, and keep to their habits.

use std::time::{Duration, Instant};

use crate::attach::program;
use crate::common::{Place, can, check, is_root};

/// Attaches, detaches and attaches again; the program says at its end whether
/// everything was as it should be.
#[track_caller]
fn keeps_to_it(name: &str, source: &str) {
    let place = Place::new();
    let mut running = program(&place, name, source);
    for _ in 0..3 {
        check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
        running.tell("go on\n");
        assert_eq!(running.line(), "went on");
        check(&mut place.bpftime(["detach", &running.pid()]), 0, "", "");
    }
    check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}

/// Handles all signals itself, and faults on purpose.
#[test]
fn handlers_for_all_signals() {
    let source = r#"
#include <setjmp.h>
static sigjmp_buf back; static volatile int got[65];
static void on(int s) { got[s]++; if (s == SIGSEGV || s == SIGTRAP || s == SIGILL || s == SIGFPE || s == SIGSYS) siglongjmp(back, s); }
static int raised(int s, void (*act)(void)) { int before = got[s]; int came = sigsetjmp(back, 1); if (came == 0) act(); return came == s && got[s] == before + 1; }
static void store(void) { *(volatile int *)8 = 1; }
static void trap(void) { __asm__ volatile("int3"); }
static void ill(void) { __asm__ volatile("ud2"); }
static void divide(void) { __asm__ volatile("xor %%ecx, %%ecx\n idivl %%ecx" : : : "rax", "rcx", "rdx", "cc"); }
static void call(void) { raise(SIGSYS); }
int main(void) { char c; struct sigaction a = {0}, now; a.sa_handler = on;
  for (int s = 1; s < 65; s++) if (s != SIGKILL && s != SIGSTOP && s != 32 && s != 33 && sigaction(s, &a, 0)) fail("sigaction");
  ready();
  while (read(0, &c, 1) > 0) { if (c != '\n') continue;
    if (!raised(SIGSEGV, store)) fail("SIGSEGV"); if (!raised(SIGTRAP, trap)) fail("SIGTRAP"); if (!raised(SIGILL, ill)) fail("SIGILL");
    if (!raised(SIGFPE, divide)) fail("SIGFPE"); if (!raised(SIGSYS, call)) fail("SIGSYS");
    puts("went on"); fflush(stdout); }
  for (int s = 1; s < 65; s++) { if (s == SIGKILL || s == SIGSTOP || s == 32 || s == 33) continue;
    int wanted = s == SIGSEGV || s == SIGTRAP || s == SIGILL || s == SIGFPE || s == SIGSYS ? 3 : 0;
    if (got[s] != wanted) fail("a signal of others"); sigaction(s, 0, &now); if (now.sa_handler != on) fail("handler"); }
  puts("as it should be"); }
"#;
    keeps_to_it("handles", source);
}

/// Closes everything but its input and output each time, and opens files
/// that get the lowest numbers.
#[test]
fn no_fd_kept() {
    let source = r#"
int main(void) { char c; ready();
  while (read(0, &c, 1) > 0) { if (c != '\n') continue;
    if (close_range(3, ~0u, 0)) fail("close_range");
    if (open("/dev/null", O_RDONLY) != 3) fail("3 is taken"); if (open("/dev/null", O_RDONLY) != 4) fail("4 is taken");
    puts("went on"); fflush(stdout); }
  if (fcntl(5, F_GETFD) != -1) fail("5 is taken"); puts("as it should be"); }
"#;
    keeps_to_it("closes", source);
}

/// Threads that block all signals, and threads that end and begin all the time.
#[test]
fn threads_that_come_and_go() {
    let source = r#"
static void *brief(void *arg) { return arg; }
static void *deaf(void *arg) { sigset_t all; sigfillset(&all); pthread_sigmask(SIG_BLOCK, &all, 0); while (!over) { free(malloc(50)); sched_yield(); } return arg; }
static void *make(void *arg) { while (!over) { pthread_t t; if (pthread_create(&t, 0, brief, arg)) fail("pthread_create"); void *back; pthread_join(t, &back); if (back != arg) fail("value"); } return arg; }
int main(void) { char c; pthread_t t[4]; for (long i = 0; i < 2; i++) { pthread_create(&t[i], 0, deaf, 0); pthread_create(&t[i + 2], 0, make, (void *)i); } ready();
  while (read(0, &c, 1) > 0) if (c == '\n') { puts("went on"); fflush(stdout); }
  over = 1; for (int i = 0; i < 4; i++) pthread_join(t[i], 0); puts("as it should be"); }
"#;
    keeps_to_it("comes_and_goes", source);
}

/// Once root's, now nobody's: it can still be left.
#[test]
fn another_user() {
    if !can("needs root", is_root()) {
        return;
    }
    let place = Place::new();
    let source = r#"
int main(void) { char c; ready(); while (read(0, &c, 1) > 0) if (c == '\n') { if (setgid(65534) || setuid(65534)) fail("setuid"); puts("went on"); fflush(stdout); }
  puts(getuid() == 65534 ? "as it should be" : "user"); }
"#;
    let mut running = program(&place, "drops", source);
    check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
    running.tell("go on\n");
    assert_eq!(running.line(), "went on");
    check(&mut place.bpftime(["detach", &running.pid()]), 0, "", "");
    let pid = running.pid();
    check(
        &mut place.bpftime(["attach", &pid]),
        1,
        "",
        &format!(
            "bpftime: {pid}: no permission to attach: it belongs to nobody: run bpftime as nobody\n"
        ),
    );
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}

const MET: [&str; 4] = [
    "became another program meanwhile (exec): try again\n",
    "ended meanwhile: start it again\n",
    "has ended (a zombie): check the process id (pidof NAME, ps)\n",
    "has not loaded the C library yet: try again\n",
];

/// Becomes itself again and again; `attach` says what it met, in one line.
#[test]
fn another_program_all_the_time() {
    let place = Place::new();
    let source = r#"
int main(int argc, char **argv) { char count[16]; int n = argc > 1 ? atoi(argv[1]) : 0;
  if (n == 0) ready();
  if (n == 150) { puts("as it should be"); return 0; }
  for (int i = 0; i < 20; i++) { free(malloc(1000)); usleep(500); }
  sprintf(count, "%d", n + 1); execl("/proc/self/exe", argv[0], count, (char *)0); fail("exec"); }
"#;
    let running = program(&place, "becomes", source);
    let pid = running.pid();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let attach = place.bpftime(["attach", &pid]).output();
        let output = attach.expect("run bpftime");
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => assert_eq!(line, ""),
            Some(1) => {
                let what = line.strip_prefix(&format!("bpftime: {pid}: "));
                assert!(what.is_some_and(|what| MET.contains(&what)), "{line}");
            }
            other => panic!("{other:?} {line}"),
        }
    }
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}
