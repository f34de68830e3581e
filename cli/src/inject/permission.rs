//! Whether a process may be attached to at all, and what to tell the user if
//! not. It knows no library.

use std::fs;
use std::io::{self, ErrorKind};

use nix::unistd::{Pid, geteuid};

use crate::libraries::reason;
use crate::problem::Problem;
use crate::program_file::user_name;

/// Flag of a kernel thread in /proc/PID/stat (`PF_KTHREAD`,
/// include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;

/// Says why the process is not for us, from /proc/PID/status.
pub fn check(pid: Pid) -> Result<(), Problem> {
    let missing = || {
        Problem::new(
            pid,
            "no such process",
            "check the process id (pidof NAME, ps)",
        )
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| missing())?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let number = |name: &str| field(name).and_then(|value| value.parse::<i64>().ok());
    match number("Tgid") {
        Some(tgid) if tgid != i64::from(pid.as_raw()) => {
            return Err(Problem::new(
                pid,
                format_args!("a thread of process {tgid}"),
                format_args!("use {tgid}"),
            ));
        }
        Some(_) => {}
        None => return Err(missing()),
    }
    let state = field("State")
        .and_then(|state| state.chars().next())
        .unwrap_or('?');
    if matches!(state, 'Z' | 'X') {
        return Err(Problem::new(
            pid,
            "has ended (a zombie)",
            "check the process id (pidof NAME, ps)",
        ));
    }
    if is_kernel_thread(pid) {
        return Err(Problem::new(pid, "a kernel thread", "name a process"));
    }
    let me = geteuid().as_raw();
    let theirs = field("Uid")
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|uid| uid.parse::<u32>().ok());
    if let Some(other) = theirs.take(3).find(|uid| *uid != me) {
        let name = user_name(other);
        return Err(Problem::new(
            pid,
            format_args!("no permission to attach: it belongs to {name}"),
            format_args!("run bpftime as {name}"),
        ));
    }
    match number("TracerPid") {
        Some(tracer) if tracer != 0 => {
            return Err(Problem::new(
                pid,
                format_args!("another debugger (process {tracer}) traces it"),
                "end that first",
            ));
        }
        _ => {}
    }
    if state == 'T' {
        return Err(stopped(pid));
    }
    if field("x86_Thread_features").is_some_and(|features| features.contains("shstk")) {
        return Err(Problem::new(
            pid,
            "uses a shadow stack, which forbids borrowing a thread",
            "start it with bpftime start instead",
        ));
    }
    check_room(pid, &status)?;
    // Root can look at the filters of a thread that is stopped.
    if is_sandboxed(pid) && !geteuid().is_root() {
        return Err(sandboxed(pid));
    }
    Ok(())
}

/// What to tell of a process whose seccomp filters an agent might not survive.
pub fn sandboxed(pid: Pid) -> Problem {
    Problem::new(
        pid,
        "runs under a seccomp filter of its own, which might kill it for what the agent does",
        "start it without its sandbox",
    )
}

/// What to tell of a process that job control stopped: borrowed, it would run.
pub fn stopped(pid: Pid) -> Problem {
    Problem::new(
        pid,
        "stopped",
        format_args!("let it continue first (kill -CONT {pid})"),
    )
}

/// Whether the process is in another namespace of this kind than we. One that
/// cannot be told is not; then nothing else can be done with it either.
pub fn other_namespace(pid: Pid, kind: &str) -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).ok();
    let theirs = of(&pid.to_string());
    theirs.is_some() && theirs != of("self")
}

/// Memory that the agent may come to need: where an allocation fails, it could
/// only end the process.
const ROOM: u64 = 256 << 20;

/// Says so if the process may not map much more (ulimit -v), or not much more
/// that can be written (ulimit -d).
fn check_room(pid: Pid, status: &str) -> Result<(), Problem> {
    const KIB: u64 = 1024;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let kinds = [
        ("Max address space", "VmSize:", "-v", "as"),
        ("Max data size", "VmData:", "-d", "data"),
    ];
    for (limited, used, ulimit, prlimit) in kinds {
        let (Some(limit), Some(used)) = (number(&limits, limited), number(status, used)) else {
            continue;
        };
        if limit < used * KIB + ROOM {
            return Err(Problem::new(
                pid,
                format_args!("may map only {} MiB (ulimit {ulimit})", limit >> 20),
                format_args!(
                    "allow it {} MiB more than it has (prlimit --pid {pid} --{prlimit}=BYTES)",
                    ROOM >> 20
                ),
            ));
        }
    }
    Ok(())
}

/// The first number of the line that begins so.
fn number(lines: &str, begin: &str) -> Option<u64> {
    let line = lines.lines().find_map(|line| line.strip_prefix(begin))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether a process runs under a filter that we do not run under.
pub fn is_sandboxed(pid: Pid) -> bool {
    let filters = |of: &str| {
        let status = fs::read_to_string(format!("/proc/{of}/status"));
        seccomp_filters(&status.unwrap_or_default())
    };
    filters(&pid.to_string()) > filters("self")
}

/// Number of seccomp filters; strict mode counts as one.
pub fn seccomp_filters(status: &str) -> u32 {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|value| value.trim().parse::<u32>().ok())
    };
    match (field("Seccomp:"), field("Seccomp_filters:")) {
        (Some(0) | None, _) => 0,
        (Some(_), Some(count)) => count.max(1),
        (Some(_), None) => 1,
    }
}

fn is_kernel_thread(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The command may hold spaces and parentheses; `flags` is the 7th after it.
    let flags = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(6));
    flags
        .and_then(|flags| flags.parse::<u64>().ok())
        .is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// What to tell of a process that is no more.
pub fn ended(pid: Pid) -> Problem {
    Problem::new(pid, "ended meanwhile", "start it again")
}

/// Whether the process has given its memory back, which is early in its end:
/// then it can be neither traced nor inspected.
pub fn has_ended(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.lines().any(|line| line.starts_with("VmSize:"))
}

/// What a refused look into /proc/PID means.
pub fn no_access(pid: Pid, error: &io::Error) -> Problem {
    match error.kind() {
        _ if has_ended(pid) => ended(pid),
        ErrorKind::NotFound => ended(pid),
        ErrorKind::PermissionDenied => {
            let scope =
                fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
            match scope.trim() {
                "1" => Problem::new(
                    pid,
                    "no permission to attach: kernel.yama.ptrace_scope is 1",
                    "start it with bpftime start, or allow it (sudo sysctl kernel.yama.ptrace_scope=0)",
                ),
                "2" | "3" => Problem::new(
                    pid,
                    format_args!(
                        "no permission to attach: kernel.yama.ptrace_scope is {}",
                        scope.trim()
                    ),
                    "start it with bpftime start instead",
                ),
                _ => Problem::new(
                    pid,
                    "no permission to attach: it protects itself (not dumpable, or more capabilities than you)",
                    "start it with bpftime start instead",
                ),
            }
        }
        _ => Problem::new(
            pid,
            format_args!("cannot be inspected ({})", reason(error)),
            "see bpftime doctor",
        ),
    }
}
