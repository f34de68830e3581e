//! `attach` killed at any system call that it makes to the target, before and
//! after it: what the target prints stays as it was, and a later `attach`
//! works. The test traces the command as a debugger would.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::attach::{PRELUDE, Running, program};
use crate::common::{Place, check};
use crate::places::started;

/// System calls that do something to a target, or wait for it.
const TOUCHES: [i64; 7] = [
    libc::SYS_pidfd_getfd,
    libc::SYS_sendmsg,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_waitid,
    libc::SYS_rt_sigtimedwait,
];

/// Runs `command` and kills it at the `moment`th start or end of a system call
/// that touches the target. How many there were, if it ended before.
#[expect(clippy::zombie_processes, reason = "the loop below waits for it")]
fn killed_at(mut command: Command, moment: usize) -> Option<usize> {
    // SAFETY: ptrace(2) may be called between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let child = command.spawn().expect("start");
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut signal = None;
    let mut count = 0;
    loop {
        match waitpid(pid, None).expect("its state") {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                ptrace::setoptions(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("options");
            }
            WaitStatus::Stopped(_, other) => signal = Some(other),
            WaitStatus::PtraceSyscall(_) => {
                let number = ptrace::getregs(pid).expect("its registers").orig_rax;
                if TOUCHES.contains(&number.cast_signed()) {
                    count += 1;
                }
            }
            WaitStatus::Exited(..) => return Some(count),
            WaitStatus::Signaled(..) => return None,
            other => panic!("{other:?}"),
        }
        if count == moment {
            ptrace::kill(pid).expect("kill");
        } else {
            ptrace::syscall(pid, signal.take()).expect("go on");
        }
    }
}

/// Of all moments every how many-th is tried, in CI; all with
/// `BPFTIME_TEST_MOMENTS=all`.
fn stride(usual: usize) -> usize {
    let all = std::env::var_os("BPFTIME_TEST_MOMENTS").is_some_and(|value| value == "all");
    if all { 1 } else { usual }
}

/// Kills `attach` at one moment after the other; the program says at its end
/// whether everything was as it should be.
#[track_caller]
fn survives_kills(name: &str, source: &str, first: usize) {
    let place = Place::new();
    let running = program(&place, name, source);
    let mut kills = 0;
    for moment in (first..).step_by(stride(23)) {
        let attach = place.bpftime(["attach", &running.pid()]);
        if killed_at(attach, moment).is_some() {
            break;
        }
        kills += 1;
    }
    assert!(kills > 20, "{kills}");
    check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}

const READS: &str = r#"
int main(void) { char c; ready(); errno = 77; long n = read(0, &c, 1);
  if (n != 0) fail("read"); if (errno != 77) fail("errno"); puts("as it should be"); }
"#;

#[test]
fn while_it_reads() {
    survives_kills("reads", READS, 1);
}

#[test]
fn while_it_sleeps() {
    let source = r#"
#include <poll.h>
static int over_now(void) { struct pollfd p = {0, POLLIN, 0}; return poll(&p, 1, 0) != 0; }
int main(void) { ready();
  while (!over_now()) {
    struct timespec t = {0, 20000000}, a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    if (nanosleep(&t, &t)) fail("nanosleep was interrupted");
    clock_gettime(CLOCK_MONOTONIC, &b);
    if ((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec < 20000000) fail("nanosleep came back early");
  } puts("as it should be"); }
"#;
    survives_kills("sleeps", source, 2);
}

/// No system call; values in registers, flags and vector registers.
#[test]
fn while_it_computes() {
    let source = r#"
static double spin(unsigned n) { double a = 1, b = 2, c = 3, d = 4; for (unsigned i = 0; i < n; i++) {
  a = a * 1.000001 + 0.5; b = b * 0.999999 + a; c += a - b * 0.001; d = d * 0.5 + c; } return a + b + c + d; }
static unsigned long mix(unsigned n) { unsigned long a = 1, b = 2, c = 3; for (unsigned i = 0; i < n; i++) {
  __asm__ volatile("add %1, %0\n adc %2, %1\n rcl $7, %2\n adc $0, %0" : "+r"(a), "+r"(b), "+r"(c) : : "cc"); } return a ^ b ^ c; }
int main(void) { watch_stdin_alone(); ready(); double first = spin(100000); unsigned long other = mix(100000);
  while (!over) { if (spin(100000) != first) fail("arithmetic"); if (mix(100000) != other) fail("flags"); }
  puts("as it should be"); }
"#;
    survives_kills("computes", source, 3);
}

/// A signal that comes meanwhile ends pause(2), as ever: the other thread
/// sends it when it has seen this one there.
#[test]
fn while_it_waits_for_a_signal() {
    let source = r#"
static volatile unsigned long got; static void on(int s) { (void)s; got++; }
static pthread_t main_thread;
static int is_paused(void) { char text[64] = ""; char path[64]; sprintf(path, "/proc/self/task/%d/syscall", getpid());
  int fd = open(path, O_RDONLY); if (fd < 0 || read(fd, text, 63) < 0) fail("syscall"); close(fd); return atoi(text) == SYS_pause; }
static void *send(void *arg) { unsigned seed = 1; while (1) { unsigned long before = got;
  while (!is_paused()) ; for (unsigned i = rand_r(&seed) % 100000; i; i--) __asm__ volatile("");
  pthread_kill(main_thread, SIGUSR1);
  for (long i = 0; got == before; i++) { if (i > 100000000) fail("no signal"); sched_yield(); } } return arg; }
static volatile unsigned long turns;
static void *judge(void *arg) { unsigned long before; char c; struct timespec t = {5, 0};
  while (read(0, &c, 1) > 0) ; before = turns; for (int i = 0; i < 50 && turns == before; i++) { t.tv_sec = 0; t.tv_nsec = 100000000; nanosleep(&t, 0); }
  puts(turns == before ? "hangs" : "as it should be"); exit(0); return arg; }
int main(void) { pthread_t t; struct sigaction a = {0}; a.sa_handler = on; a.sa_flags = SA_RESTART; sigaction(SIGUSR1, &a, 0);
  main_thread = pthread_self(); pthread_create(&t, 0, judge, 0); ready(); pthread_create(&t, 0, send, 0);
  while (1) { if (pause() != -1 || errno != EINTR) fail("pause"); turns++; } }
"#;
    survives_kills("pauses", source, 4);
}

/// With another mask while it waits, and a timer that ends the wait.
#[test]
fn while_its_mask_is_another() {
    let source = r#"
#include <poll.h>
#include <sys/time.h>
static volatile unsigned long got; static void on(int s) { (void)s; got++; }
static int over_now(void) { struct pollfd p = {0, POLLIN, 0}; return poll(&p, 1, 0) != 0; }
int main(void) { sigset_t blocked, none, now; signal(SIGALRM, on); sigemptyset(&none); sigemptyset(&blocked); sigaddset(&blocked, SIGALRM); sigaddset(&blocked, SIGTRAP);
  sigprocmask(SIG_BLOCK, &blocked, &none); ready();
  while (!over_now()) { unsigned long before = got; struct itimerval t = {{0, 0}, {0, 5000}}; setitimer(ITIMER_REAL, &t, 0);
    if (sigsuspend(&none) != -1 || errno != EINTR || got != before + 1) fail("sigsuspend");
    sigprocmask(SIG_BLOCK, 0, &now); if (memcmp(&now, &blocked, sizeof now)) fail("mask"); }
  puts("as it should be"); }
"#;
    survives_kills("suspends", source, 5);
}

/// The first time the library is loaded, by a process of its own each.
#[test]
fn while_it_loads_the_agent() {
    let place = Place::new();
    for moment in (100..).step_by(stride(47)) {
        let running: Running = program(&place, "reads", READS);
        let attach = place.bpftime(["attach", &running.pid()]);
        let ended = killed_at(attach, moment);
        check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
        assert!(running.has_agent());
        assert_eq!(
            running.end(),
            ("as it should be\n".to_owned(), String::new(), Some(0))
        );
        if ended.is_some() {
            break;
        }
    }
}

/// While it hands files over to a process in a container: none of them stays
/// but those that an agent keeps.
#[test]
fn while_it_hands_files_over() {
    let place = Place::new();
    let source = format!("{PRELUDE}{READS}");
    let path = place.compile("gcc", &["-O2", "-pthread"], "reads", &source);
    let (running, pid) = started(&["unshare", "-Urmpf", "--mount-proc"], &path);
    let fds = || {
        let all = std::fs::read_dir(format!("/proc/{pid}/fd"));
        all.expect("its fds").count()
    };
    let before = fds();
    let mut kills = 0;
    // Each time at another moment of it.
    for moment in (50..).step_by(stride(13)) {
        let attach = place.bpftime(["attach", &pid.to_string()]);
        if killed_at(attach, moment).is_some() {
            break;
        }
        kills += 1;
    }
    assert!(kills > 10, "{kills}");
    check(&mut place.bpftime(["attach", &pid.to_string()]), 0, "", "");
    // The agent opens others for moments.
    let deadline = Instant::now() + Duration::from_secs(10);
    while fds() != before + 2 {
        assert!(Instant::now() < deadline, "{} fds", fds());
        std::thread::sleep(Duration::from_millis(10));
    }
    check(&mut place.bpftime(["detach", &pid.to_string()]), 0, "", "");
    assert_eq!(fds(), before);
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}
