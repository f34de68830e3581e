//! `attach` in the middle of whatever a program does: its output, its exit
//! status and every value it checks by itself stay as they were.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Place, can, check, installed, is_root};

/// How often each program is attached to.
const TIMES: usize = 40;

/// A program that says `ready`, runs until its stdin ends, and then prints
/// whether everything was as it should be.
pub struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its output");
        assert_eq!(line, "ready\n");
        Self { child, output }
    }

    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub fn tell(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin.write_all(text.as_bytes()).expect("it reads");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output");
        line.trim_end().to_owned()
    }

    /// Ends the program; everything it said after `ready`, and its status.
    pub fn end(mut self) -> (String, String, Option<i32>) {
        drop(self.child.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        self.output.read_to_string(&mut out).expect("its output");
        self.child
            .stderr
            .take()
            .expect("a pipe")
            .read_to_string(&mut err)
            .expect("its errors");
        (out, err, self.child.wait().expect("its status").code())
    }

    pub fn has_agent(&self) -> bool {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id())).expect("its maps");
        maps.contains("libbpftime-agent.so")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A failed test leaves nothing running; an ended program is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What every program here has in common: `ready`, and a thread that ends it
/// when stdin ends.
pub const PRELUDE: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile int over;
static void ready(void) { puts("ready"); fflush(stdout); }
static void *until_end(void *unused) { char c; while (read(0, &c, 1) > 0) ; over = 1; return unused; }
static void watch_stdin(void) { pthread_t t; pthread_create(&t, 0, until_end, 0); }
static void on_end(int s) { (void)s; over = 1; }
static void watch_stdin_alone(void) { signal(SIGIO, on_end); fcntl(0, F_SETOWN, getpid()); fcntl(0, F_SETFL, O_ASYNC); }
static _Noreturn void fail(const char *what) { printf("%s\n", what); exit(1); }
"#;

pub fn program(place: &Place, name: &str, source: &str) -> Running {
    let path = place.compile(
        "gcc",
        &["-O2", "-pthread", "-lm"],
        name,
        &format!("{PRELUDE}{source}"),
    );
    Running::start(Command::new(path))
}

/// Attaches to fresh instances of a program, ten times to each, and compares
/// all it says.
#[track_caller]
fn survives(name: &str, source: &str) {
    let place = Place::new();
    for _ in 0..TIMES / 10 {
        let running = program(&place, name, source);
        for _ in 0..10 {
            check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
        }
        assert!(running.has_agent());
        assert_eq!(
            running.end(),
            ("as it should be\n".to_owned(), String::new(), Some(0))
        );
    }
}

#[test]
fn asleep_in_read() {
    survives(
        "reads",
        "int main(void) { char c; ready(); errno = 77; long n = read(0, &c, 1);
         if (n != 0) fail(\"read\"); if (errno != 77) fail(\"errno\"); puts(\"as it should be\"); }",
    );
}

/// Restarted by the kernel with the rest of the time, through
/// `restart_syscall(2)`.
#[test]
fn asleep_in_nanosleep() {
    survives(
        "sleeps",
        "int main(void) { watch_stdin(); ready();
         while (!over) {
           struct timespec t = {0, 300000000}, a, b;
           clock_gettime(CLOCK_MONOTONIC, &a);
           if (nanosleep(&t, &t)) fail(\"nanosleep was interrupted\");
           clock_gettime(CLOCK_MONOTONIC, &b);
           long ms = (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000;
           if (ms < 299) fail(\"nanosleep came back early\");
         } puts(\"as it should be\"); }",
    );
}

/// Waits with a timeout, with nobody else to borrow: the second time the
/// thread is found in `restart_syscall(2)`.
#[test]
fn alone_in_timed_waits() {
    let waits = [
        ("nanosleep", "struct timespec t = {0, 50000000}; if (nanosleep(&t, &t)) fail(\"interrupted\");"),
        ("poll", "if (poll(0, 0, 50)) fail(\"interrupted\");"),
        (
            "epoll",
            "static int e; if (!e) e = epoll_create1(0); struct epoll_event v; if (epoll_wait(e, &v, 1, 50)) fail(\"interrupted\");",
        ),
        ("select", "struct timeval t = {0, 50000}; if (select(0, 0, 0, 0, &t)) fail(\"interrupted\");"),
        (
            "semaphore",
            "sem_t s; sem_init(&s, 0, 0); struct timespec t; clock_gettime(CLOCK_REALTIME, &t); t.tv_sec++; t.tv_nsec /= 2;
             if (sem_timedwait(&s, &t) != -1 || errno != ETIMEDOUT) fail(\"interrupted\");",
        ),
    ];
    for (name, wait) in waits {
        survives(
            name,
            &format!(
                "#include <poll.h>\n#include <semaphore.h>\n#include <sys/epoll.h>\n#include <sys/select.h>
                 static int over_now(void) {{ struct pollfd p = {{0, POLLIN, 0}}; return poll(&p, 1, 0) != 0; }}
                 int main(void) {{ ready(); while (!over_now()) {{ {wait} }} puts(\"as it should be\"); }}"
            ),
        );
    }
}

/// Blocked where locks may be held: refused, and unharmed.
#[test]
fn asleep_where_it_cannot_be_borrowed() {
    let place = Place::new();
    let fifo = place.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
    let source = format!(
        "int main(void) {{ ready(); int f = open(\"{}\", O_RDONLY); puts(f >= 0 ? \"as it should be\" : \"open\"); }}",
        fifo.display()
    );
    let running = program(&place, "opens", &source);
    let pid = running.pid();
    check(
        &mut place.bpftime(["attach", &pid]),
        1,
        "",
        &format!(
            "bpftime: {pid}: no thread came to a point safe for loading the agent within 3 s: try again, or start it with bpftime start\n"
        ),
    );
    assert!(!running.has_agent());
    drop(
        fs::OpenOptions::new()
            .write(true)
            .open(&fifo)
            .expect("open"),
    );
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}

#[test]
fn busy_in_malloc() {
    survives(
        "allocates",
        "int main(void) { void *p[64] = {0}; unsigned i = 0; watch_stdin(); ready();
         while (!over) { unsigned n = i++ % 64; free(p[n]); p[n] = malloc(16 + i % 4000); memset(p[n], (int)n, 16);
           for (unsigned k = 0; k < 64; k++) if (p[k] && *(unsigned char *)p[k] != k) fail(\"memory\"); }
         puts(\"as it should be\"); }",
    );
}

/// Single-threaded: nobody else can be borrowed.
#[test]
fn alone_and_busy_in_malloc() {
    survives(
        "alone",
        "
         int main(void) { void *p[64] = {0}; unsigned i = 0; watch_stdin_alone(); ready();
         while (!over) { unsigned n = i++ % 64; free(p[n]); p[n] = malloc(16 + i % 4000); memset(p[n], (int)n, 16); }
         puts(\"as it should be\"); }",
    );
}

/// No system call, values in registers and vector registers throughout.
#[test]
fn alone_and_computing() {
    survives(
        "computes",
        "
         static double spin(unsigned n) { double a = 1, b = 2, c = 3, d = 4; for (unsigned i = 0; i < n; i++) {
           a = a * 1.000001 + 0.5; b = b * 0.999999 + a; c += a - b * 0.001; d = d * 0.5 + c; } return a + b + c + d; }
         int main(void) { watch_stdin_alone(); ready(); double first = spin(100000);
         while (!over) if (spin(100000) != first) fail(\"arithmetic\");
         puts(\"as it should be\"); }",
    );
}

#[test]
fn many_threads() {
    survives(
        "threads",
        "static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER; static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
         static long sum; static unsigned long turns[8];
         static void *work(void *arg) { unsigned n = (unsigned)(long)arg; while (!over) { void *p = malloc(100 + n);
           pthread_mutex_lock(&m); sum++; pthread_cond_signal(&c); pthread_mutex_unlock(&m); turns[n]++; free(p);
           if (n & 1) sched_yield(); } return 0; }
         static void *wait(void *arg) { pthread_mutex_lock(&m); while (!over) pthread_cond_wait(&c, &m); pthread_mutex_unlock(&m); return arg; }
         int main(void) { pthread_t t[8], w; watch_stdin(); ready(); pthread_create(&w, 0, wait, 0);
         for (long i = 0; i < 8; i++) pthread_create(&t[i], 0, work, (void *)i);
         unsigned long all = 0; for (int i = 0; i < 8; i++) { pthread_join(t[i], 0); all += turns[i]; }
         pthread_mutex_lock(&m); pthread_cond_broadcast(&c); pthread_mutex_unlock(&m); pthread_join(w, 0);
         puts(all == (unsigned long)sum ? \"as it should be\" : \"lost\"); }",
    );
}

/// Every signal blocked that can be, SIGTRAP and SIGSEGV among them.
#[test]
fn with_all_signals_blocked() {
    survives(
        "blocks",
        "int main(void) { sigset_t all, now; char c; sigfillset(&all); sigprocmask(SIG_SETMASK, &all, 0); sigprocmask(SIG_SETMASK, 0, &all);
         signal(SIGSEGV, SIG_IGN); signal(SIGTRAP, SIG_IGN); ready();
         while (read(0, &c, 1) > 0) ;
         sigprocmask(SIG_SETMASK, 0, &now); if (memcmp(&all, &now, sizeof all)) fail(\"mask\");
         if (signal(SIGSEGV, SIG_DFL) != SIG_IGN || signal(SIGTRAP, SIG_DFL) != SIG_IGN) fail(\"handlers\");
         puts(\"as it should be\"); }",
    );
}

/// A signal every 100 µs: each must arrive exactly as often as it was sent.
#[test]
fn under_a_rain_of_signals() {
    survives(
        "signals",
        "static volatile unsigned long got; static void on(int s) { (void)s; got++; }
         static pthread_t main_thread; static unsigned long sent;
         static void *rain(void *arg) { while (!over) { unsigned long before = got; struct timespec t = {0, 100000};
           nanosleep(&t, 0); sent++; pthread_kill(main_thread, SIGUSR1); while (got == before) sched_yield(); } return arg; }
         int main(void) { pthread_t t; signal(SIGUSR1, on); main_thread = pthread_self(); watch_stdin(); ready();
         pthread_create(&t, 0, rain, 0);
         while (!over) { struct timespec t = {0, 50000}; if (nanosleep(&t, 0) && errno != EINTR) fail(\"nanosleep\"); }
         pthread_join(t, 0); puts(sent == got ? \"as it should be\" : \"lost\"); }",
    );
}

#[test]
fn killed_while_it_is_attached_to() {
    let place = Place::new();
    let path = place.compile(
        "gcc",
        &["-O2", "-pthread"],
        "victim",
        &format!(
            "{PRELUDE}
        int main(void) {{ watch_stdin(); ready(); while (!over) free(malloc(100)); }}"
        ),
    );
    for round in 0..30 {
        let mut running = Running::start(Command::new(&path));
        let mut attach = place.bpftime(["attach", &running.pid()]);
        let attach = attach.stderr(Stdio::piped()).spawn().expect("run bpftime");
        std::thread::sleep(Duration::from_micros(round * 150));
        running.child.kill().expect("kill");
        let output = attach.wait_with_output().expect("its output");
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => assert_eq!(line, ""),
            Some(1) => {
                assert_eq!(line.lines().count(), 1, "{line}");
                let words = ["ended meanwhile", "has ended (a zombie)", "no such process"];
                assert!(words.iter().any(|word| line.contains(word)), "{line}");
            }
            other => panic!("{other:?} {line}"),
        }
    }
}

#[test]
fn processes_that_cannot_be_attached_to() {
    let place = Place::new();
    let refuses = |pid: &str, line: &str| {
        check(
            &mut place.bpftime(["attach", pid]),
            1,
            "",
            &format!("bpftime: {pid}: {line}\n"),
        );
    };
    refuses(
        "4194303",
        "no such process: check the process id (pidof NAME, ps)",
    );

    let mut zombie = Command::new("true").spawn().expect("start");
    let ended = Instant::now() + Duration::from_secs(20);
    let is_zombie = |child: &Child| {
        fs::read_to_string(format!("/proc/{}/stat", child.id()))
            .is_ok_and(|stat| stat.contains(") Z"))
    };
    while !is_zombie(&zombie) {
        assert!(Instant::now() < ended);
        std::thread::yield_now();
    }
    refuses(
        &zombie.id().to_string(),
        "has ended (a zombie): check the process id (pidof NAME, ps)",
    );
    zombie.wait().expect("its status");

    let source =
        format!("{PRELUDE}int main(void) {{ char c; ready(); while (read(0, &c, 1) > 0) ; }}");
    let fixed = |flags: &[&str], compiler: &str, name: &str, line: &str| {
        let path = place.compile(compiler, flags, name, &source);
        let running = Running::start(Command::new(path));
        refuses(&running.pid(), line);
        assert_eq!(
            running.end(),
            (String::new(), String::new(), Some(0)),
            "unharmed"
        );
    };
    fixed(
        &["-static"],
        "gcc",
        "static",
        "statically linked: nothing in it could load the agent: use a dynamically linked build of it",
    );
    if can("needs musl-gcc", installed("musl-gcc")) {
        fixed(
            &[],
            "musl-gcc",
            "musl",
            "runs on musl libc: use a build of it for glibc",
        );
    }

    let stopped = program(
        &place,
        "stops",
        "int main(void) { char c; ready(); while (read(0, &c, 1) > 0) ; }",
    );
    let signal = |signal| {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(stopped.child.id().cast_signed()),
            signal,
        )
        .expect("kill");
    };
    signal(nix::sys::signal::Signal::SIGSTOP);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(format!("/proc/{}/stat", stopped.pid()))
        .is_ok_and(|stat| stat.contains(") T"))
    {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let pid = stopped.pid();
    refuses(
        &pid,
        &format!("stopped: let it continue first (kill -CONT {pid})"),
    );
    signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(stopped.end(), (String::new(), String::new(), Some(0)));

    if can("needs root", is_root()) {
        // kthreadd, if this process namespace has it.
        if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
            refuses("2", "a kernel thread: name a process");
        }
        let path = place.compile("gcc", &["-O2"], "other", &source);
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(path);
        let running = Running::start(command);
        refuses(
            &running.pid(),
            "no permission to attach: it belongs to nobody: run bpftime as nobody",
        );
        assert_eq!(running.end(), (String::new(), String::new(), Some(0)));
    }
}

/// Several processes, one of them wrong: the others are attached to.
#[test]
fn several_processes_at_once() {
    let place = Place::new();
    let source = "int main(void) { char c; ready(); while (read(0, &c, 1) > 0) ; }";
    let (one, two) = (
        program(&place, "one", source),
        program(&place, "two", source),
    );
    check(
        &mut place.bpftime(["attach", "4194303", &one.pid(), "4194302", &two.pid()]),
        1,
        "",
        "bpftime: 4194303: no such process: check the process id (pidof NAME, ps)\n\
         bpftime: 4194302: no such process: check the process id (pidof NAME, ps)\n",
    );
    assert!(one.has_agent() && two.has_agent());
}

/// `kill -9` of the command while it borrows a thread leaves the target whole.
#[test]
fn killed_at_any_moment() {
    let place = Place::new();
    let source = "static volatile long sum;
         int main(void) { watch_stdin(); ready();
         for (long i = 0; !over; i++) { void *p = malloc(i % 999); sum += i; free(p); usleep(10); }
         puts(\"as it should be\"); }";
    let running = program(&place, "killed", source);
    for round in 0..60u64 {
        let mut command = place.bpftime(["attach", &running.pid()]);
        let mut attach = command.spawn().expect("start");
        std::thread::park_timeout(Duration::from_micros(round * 700));
        attach.kill().expect("kill");
        attach.wait().expect("its status");
    }
    check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
    assert!(running.has_agent());
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}

/// An ordinary user on a process of their own, without any capability.
#[test]
fn without_privileges() {
    if !can("needs root and setpriv", is_root() && installed("setpriv")) {
        return;
    }
    let place = Place::new();
    let bpftime = place.file(
        "bpftime",
        fs::read(env!("CARGO_BIN_EXE_bpftime")).expect("bpftime"),
        0o755,
    );
    let path = place.compile(
        "gcc",
        &["-O2", "-pthread"],
        "plain",
        &format!("{PRELUDE}int main(void) {{ char c; ready(); while (read(0, &c, 1) > 0) ; puts(\"as it should be\"); }}"),
    );
    let home = place.path("home");
    fs::create_dir(&home).expect("mkdir");
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).expect("chown");
    let nobody = |program: &std::path::Path| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(program);
        command
            .env("BPFTIME_STATE_DIR", home.join("state"))
            .env("BPFTIME_SESSION_DIR", home.join("sessions"));
        command
    };
    let running = Running::start(nobody(&path));
    check(nobody(&bpftime).args(["attach", &running.pid()]), 0, "", "");
    assert!(running.has_agent());
    let own = std::process::id().to_string();
    check(
        nobody(&bpftime).args(["attach", &own]),
        1,
        "",
        &format!(
            "bpftime: {own}: no permission to attach: it belongs to root: run bpftime as root\n"
        ),
    );
    assert_eq!(
        running.end(),
        ("as it should be\n".to_owned(), String::new(), Some(0))
    );
}
