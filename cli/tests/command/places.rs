//! Processes in surroundings of their own: those that the agent can live in
//! are attached to, and all others refused in words, unharmed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::attach::{PRELUDE, Running, program};
use crate::common::{Place, can, check, is_root};

const WAITS: &str = "int main(void) { char c; errno = 77; ready(); while (read(0, &c, 1) > 0) ; if (errno != 77) fail(\"errno\"); puts(\"as it should be\"); }";

/// What the program prints at its end.
const FINE: &str = "as it should be\n";

fn waits(place: &Place, name: &str) -> PathBuf {
    place.compile(
        "gcc",
        &["-O2", "-pthread"],
        name,
        &format!("{PRELUDE}{WAITS}"),
    )
}

/// Starts a command that ends up, perhaps in a child, as the program `name`,
/// and gives that one's pid.
pub fn started(command: &[&str], program: &Path) -> (Running, i32) {
    let mut all = Command::new(command[0]);
    all.args(&command[1..]).arg(program);
    let running = Running::start(all);
    let exe = fs::canonicalize(program).expect("the program");
    let runs = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == exe);
    let pids = fs::read_dir("/proc").expect("/proc");
    let mut pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pid = pids.find(runs).expect("the program runs");
    (running, pid)
}

fn refuses(place: &Place, pid: i32, line: &str) {
    check(
        &mut place.bpftime(["attach", &pid.to_string()]),
        1,
        "",
        &format!("bpftime: {pid}: {line}\n"),
    );
}

fn ends_well(running: Running) {
    assert_eq!(running.end(), (FINE.to_owned(), String::new(), Some(0)));
}

#[test]
fn namespaces_of_its_own() {
    let place = Place::new();
    for (index, command) in [&["unshare", "-Ur"][..], &["unshare", "-Urm"]]
        .iter()
        .enumerate()
    {
        let (running, pid) = started(command, &waits(&place, &format!("waits{index}")));
        let pid = pid.to_string();
        check(&mut place.bpftime(["attach", &pid]), 0, "", "");
        check(&mut place.bpftime(["detach", &pid]), 0, "", "");
        ends_well(running);
    }
}

/// Attaches and leaves; it has the fds that it had.
fn comes_and_goes(place: &Place, pid: i32) {
    let fds = || fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
    let before = fds();
    let pid = pid.to_string();
    for _ in 0..3 {
        check(&mut place.bpftime(["attach", &pid]), 0, "", "");
        check(&mut place.bpftime(["detach", &pid]), 0, "", "");
        assert_eq!(fds(), before);
    }
    assert!(!place.path("sessions").exists());
}

#[test]
fn pids_of_its_own() {
    let place = Place::new();
    for (index, command) in [
        &["unshare", "-Urpf"][..],
        &["unshare", "-Urmpf", "--mount-proc"],
    ]
    .iter()
    .enumerate()
    {
        let (running, pid) = started(command, &waits(&place, &format!("waits{index}")));
        comes_and_goes(&place, pid);
        ends_well(running);
    }
}

/// Its own root, by chroot(2), with the C library that the program needs.
fn in_another_root(place: &Place, libraries: &[&str]) -> Command {
    let root = place.path("root");
    for file in ["lib64/ld-linux-x86-64.so.2"].iter().chain(libraries) {
        let inside = root.join(file);
        fs::create_dir_all(inside.parent().expect("a directory")).expect("mkdir");
        fs::copy(Path::new("/").join(file), inside).expect("copy");
    }
    fs::create_dir_all(root.join("proc")).expect("mkdir");
    fs::copy(waits(place, "waits"), root.join("waits")).expect("copy");
    let mut command = Command::new("unshare");
    let script = "[ -z \"$2\" ] || mount -t proc proc \"$1/proc\"; exec chroot \"$1\" /waits";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(root);
    command
}

const LIBC: &str = "lib/x86_64-linux-gnu/libc.so.6";
const LIBGCC: &str = "lib/x86_64-linux-gnu/libgcc_s.so.1";

#[test]
fn another_root() {
    if !can("needs root", is_root()) {
        return;
    }
    let place = Place::new();
    let mut command = in_another_root(&place, &[LIBC, LIBGCC]);
    let running = Running::start({
        command.arg("with proc");
        command
    });
    comes_and_goes(&place, running.pid().parse().expect("a pid"));
    ends_well(running);
}

#[test]
fn another_root_without_a_library() {
    if !can("needs root", is_root()) {
        return;
    }
    let place = Place::new();
    let mut command = in_another_root(&place, &[LIBC]);
    command.arg("with proc");
    let running = Running::start(command);
    let line = "its root directory has no libgcc_s.so.1, which the agent needs: install it there";
    refuses(&place, running.pid().parse().expect("a pid"), line);
    ends_well(running);
}

#[test]
fn another_root_without_proc() {
    if !can("needs root", is_root()) {
        return;
    }
    let place = Place::new();
    let running = Running::start(in_another_root(&place, &[LIBC, LIBGCC]));
    let line = "has another root directory, in which its /proc is not mounted: mount it there, or start it with bpftime start inside";
    refuses(&place, running.pid().parse().expect("a pid"), line);
    ends_well(running);
}

#[test]
fn little_memory() {
    let place = Place::new();
    let path = waits(&place, "waits");
    let limits = [
        ("-v", "as", 20_000, 19),
        ("-v", "as", 100_000, 97),
        ("-d", "data", 2_000, 1),
        ("-d", "data", 40_000, 39),
    ];
    for (ulimit, prlimit, kib, mib) in limits {
        let script = format!("ulimit {ulimit} {kib}; exec {}", path.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let running = Running::start(command);
        let pid = running.pid().parse().expect("a pid");
        let line = format!(
            "may map only {mib} MiB (ulimit {ulimit}): allow it 256 MiB more than it has (prlimit --pid {pid} --{prlimit}=BYTES)"
        );
        refuses(&place, pid, &line);
        ends_well(running);
        // And one that brings the agent along runs as ever.
        let start = format!(
            "exec {} start sh -c 'ulimit {ulimit} {kib}; exec {}'",
            env!("CARGO_BIN_EXE_bpftime"),
            path.display()
        );
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &start])
            .env("BPFTIME_STATE_DIR", place.path("state"))
            .env("BPFTIME_SESSION_DIR", place.path("sessions"));
        ends_well(Running::start(shell));
    }
}

#[test]
fn traced_already() {
    let place = Place::new();
    let running = program(&place, "traced", WAITS);
    let pid = running.pid().parse().expect("a pid");
    let target = Pid::from_raw(pid);
    ptrace::seize(target, ptrace::Options::empty()).expect("seize");
    // The tracer is this thread, not the process.
    // SAFETY: no arguments.
    let me = unsafe { libc::gettid() };
    let line = format!("another debugger (process {me}) traces it: end that first");
    refuses(&place, pid, &line);
    ptrace::interrupt(target).expect("interrupt");
    waitpid(target, Some(nix::sys::wait::WaitPidFlag::__WALL)).expect("its stop");
    ptrace::detach(target, None).expect("detach");
    check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
    ends_well(running);
}

/// Stopped and continued at random while it is attached to: stopped it stays.
#[test]
fn stopped_meanwhile() {
    let place = Place::new();
    let running = program(&place, "stopped", WAITS);
    let pid = Pid::from_raw(running.pid().parse().expect("a pid"));
    let is_stopped =
        || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T"));
    let refusal = format!("bpftime: {pid}: stopped: let it continue first (kill -CONT {pid})\n");
    for round in 0..20_u64 {
        let attach = place
            .bpftime(["attach", &running.pid()])
            .stderr(std::process::Stdio::piped())
            .spawn();
        std::thread::park_timeout(Duration::from_micros(round * 1500));
        kill(pid, Signal::SIGSTOP).expect("kill");
        let output = attach
            .expect("start")
            .wait_with_output()
            .expect("its output");
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        let late = format!(
            "bpftime: {pid}: its agent did not answer within 5 s: bpftime status tells when it does\n"
        );
        assert!(line.is_empty() || line == refusal || line == late, "{line}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_stopped() {
            assert!(Instant::now() < deadline, "it was continued");
            std::thread::yield_now();
        }
        kill(pid, Signal::SIGCONT).expect("kill");
    }
    check(&mut place.bpftime(["attach", &running.pid()]), 0, "", "");
    ends_well(running);
}
