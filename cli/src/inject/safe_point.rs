//! Where a thread of the target may be borrowed: at a point where it holds
//! none of the locks that dlopen(3) and pthread_create(3) take. It calls
//! nothing in it.
//!
//! Best is a thread asleep in a system call that neither malloc nor `ld.so`
//! makes, and that it is made to begin again. Otherwise a running thread is led
//! to the start of such a call, or is caught in the program's own code with no
//! signal handler on its stack.

use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::arch::{self, Interruptible, Registers};
use super::permission::{self, no_access};
use super::slot::Slot;
use super::target::Target;
use super::thread::{self, Lost, Stop, Thread};
use crate::log::debug;
use crate::problem::Problem;

/// How long one thread is tried before the next one's turn.
const TURN: Duration = Duration::from_millis(100);
/// How long a running thread runs between two looks, at least and at most.
const PACE: (Duration, Duration) = (Duration::from_micros(10), Duration::from_micros(300));
/// Starts and ends of system calls to look at before a thread may run past
/// them for a while: one that lives in brk(2) is elsewhere only in between.
const SYSCALL_STOPS: u32 = 8;
/// More threads than this are not tried in one round.
const MOST_THREADS: usize = 64;
/// How much of a stack is searched for frames that forbid it.
const STACK: usize = 64 * 1024;

/// Name of the agent's thread, as /proc shows it.
const AGENT_THREAD: &str = "bpftime\n";
/// The part of a futex(2) operation without its flags (FUTEX_CMD_MASK).
const FUTEX_COMMAND: u64 = 0x7f;

/// Waits that last: a thread found there is likely to stay.
const SLEEPS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_pause,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_msgrcv,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    libc::SYS_io_uring_enter,
    // What the kernel made of one of the above, or of a timed wait for a
    // futex, when we or a signal interrupted it.
    libc::SYS_restart_syscall,
];

/// Other calls that neither the allocator, nor `ld.so`, nor the start and end
/// of a thread or process makes.
const PASSAGES: &[i64] = &[
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_connect,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ioctl,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_access,
    libc::SYS_stat,
    libc::SYS_unlink,
];

/// Brings one thread of the target to a safe point and returns it stopped; one
/// that went on an errand and was not seen to come back, if that can be.
pub fn reach(target: &Target, deadline: Instant) -> Result<(Thread, Point), Problem> {
    let pid = target.pid;
    let owners: Vec<i32> = target.slots.iter().filter_map(Slot::owner).collect();
    loop {
        let mut threads = threads(pid, &owners);
        if threads.is_empty() {
            return Err(Problem::new(pid, "ended meanwhile", "start it again"));
        }
        threads.truncate(MOST_THREADS);
        let alone = threads.len() == 1;
        for tid in threads {
            let turn = if alone {
                deadline
            } else {
                deadline.min(Instant::now() + TURN)
            };
            let mut thread = match Thread::seize(tid) {
                Ok(thread) => thread,
                Err(nix::errno::Errno::ESRCH) => continue,
                Err(errno) => return Err(no_access(pid, &errno.into())),
            };
            match lead(&mut thread, target, turn) {
                Ok(Some(point)) => return Ok((thread, point)),
                Ok(None) | Err(Lost::Late | Lost::Ended) => {
                    debug!("{pid}: thread {tid} is at no safe point")
                }
                Err(lost) => return Err(super::explain(pid, lost)),
            }
            if Instant::now() >= deadline {
                return Err(Problem::new(
                    pid,
                    format_args!(
                        "no thread came to a point safe for loading the agent within {} s",
                        super::SAFE_POINT.as_secs()
                    ),
                    "try again, or start it with bpftime start",
                ));
            }
        }
    }
}

/// The target's threads, those of `first` first, then those asleep in a
/// lasting wait.
fn threads(pid: Pid, first: &[i32]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut threads: Vec<(u8, Pid)> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|tid| !is_agents(pid, *tid) && !is_restricted(pid, *tid))
        .map(|tid| {
            let rank = if first.contains(&tid) {
                0
            } else {
                rank(pid, tid)
            };
            (rank, Pid::from_raw(tid))
        })
        .collect();
    threads.sort_by_key(|(rank, tid)| (*rank, tid.as_raw()));
    threads.into_iter().map(|(_, tid)| tid).collect()
}

/// The agent waits for its own thread when it is started again.
fn is_agents(pid: Pid, tid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"))
        .is_ok_and(|name| name == AGENT_THREAD)
}

/// A thread under more filters than the first one: the agent's would be, too.
fn is_restricted(pid: Pid, tid: i32) -> bool {
    let filters = |path: String| {
        let status = fs::read_to_string(path).unwrap_or_default();
        permission::seccomp_filters(&status)
    };
    filters(format!("/proc/{pid}/task/{tid}/status")) > filters(format!("/proc/{pid}/status"))
}

/// 1 for a thread in a lasting wait, 2 for a running one, 3 for the rest.
fn rank(pid: Pid, tid: i32) -> u8 {
    let line = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).unwrap_or_default();
    let mut words = line.split_whitespace();
    match words.next() {
        Some("running") => 2,
        Some(number) => match number.parse() {
            Ok(number) if SLEEPS.contains(&number) => 1,
            _ => 3,
        },
        None => 3,
    }
}

/// Where a thread that may be borrowed is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// At the start of a system call, which signals then may end so.
    Call(Interruptible),
    /// In the program's own code.
    Code,
}

/// Leads one thread to a safe point and leaves it stopped there.
fn lead(thread: &mut Thread, target: &Target, deadline: Instant) -> Result<Option<Point>, Lost> {
    thread.interrupt()?;
    let mut in_syscall = false;
    let mut interrupted = None;
    let mut syscall_stops = 0;
    let mut pace = PACE.0;
    loop {
        let patience = if thread.is_asked() {
            deadline
        } else {
            deadline.min(Instant::now() + pace)
        };
        match thread.wait(patience) {
            Err(Lost::Late) if !thread.is_asked() => {
                thread.interrupt()?;
                continue;
            }
            Err(lost) => return Err(lost),
            Ok(Stop::Asked) => {
                syscall_stops = 0;
                // Not in step with what the program does.
                pace = if pace > PACE.1 { PACE.0 } else { pace * 9 / 8 };
                let registers = thread.registers()?;
                interrupted = arch::rule(&registers);
                if arch::syscall_number(&registers).is_none() && is_safe(thread, target)? {
                    return Ok(Some(Point::Code));
                }
            }
            Ok(Stop::Syscall) => {
                in_syscall = !in_syscall;
                syscall_stops += 1;
                // One that was interrupted, and is about to be made again, may
                // not be interrupted less for it.
                let rule = interrupted.take().unwrap_or(Interruptible::Never);
                if in_syscall && is_safe(thread, target)? {
                    return Ok(Some(Point::Call(rule)));
                }
            }
            Ok(Stop::Group) => return Err(Lost::Stopped),
            Ok(Stop::Signal(signal)) => {
                interrupted = None;
                thread.resume(signal)?;
                continue;
            }
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        if !in_syscall && syscall_stops > SYSCALL_STOPS {
            thread.run()?;
        } else {
            thread.resume(0)?;
        }
    }
}

/// Whether the stopped thread is at a point where it may be borrowed.
fn is_safe(thread: &Thread, target: &Target) -> Result<bool, Lost> {
    let registers = thread.registers()?;
    let at = arch::instruction(&registers);
    let number = arch::syscall_number(&registers);
    let own_point = match number {
        Some(number) => is_harmless(number, &registers) && !target.is_loader(at),
        None => !target.is_careful(at) && !target.has_own_allocator(),
    };
    if !own_point || target.is_out(thread.tid(), &registers) {
        return Ok(false);
    }
    // libc's allocator calls nothing of the program while it holds its lock, so
    // in the program's own code only a handler of a signal that interrupted it
    // could run under that lock.
    let stack = Stack::of(target, arch::stack(&registers));
    Ok(!stack.handles_signal_of(target))
}

fn is_harmless(number: i64, registers: &Registers) -> bool {
    if number == libc::SYS_futex {
        // Condition variables, joins and semaphores; locks wait with FUTEX_WAIT.
        let operation = arch::syscall_second_argument(registers) & FUTEX_COMMAND;
        return operation == libc::FUTEX_WAIT_BITSET as u64;
    }
    SLEEPS.contains(&number) || PASSAGES.contains(&number)
}

/// The lower part of a thread's stack.
struct Stack {
    start: u64,
    bytes: Vec<u8>,
}

impl Stack {
    /// As much as can be read from the stack pointer up.
    fn of(target: &Target, pointer: u64) -> Self {
        let mut length = STACK;
        loop {
            let mut bytes = vec![0; length];
            if thread::read(target.pid, pointer, &mut bytes).is_ok() {
                return Self {
                    start: pointer,
                    bytes,
                };
            }
            length /= 2;
            if length < 8 {
                return Self {
                    start: pointer,
                    bytes: Vec::new(),
                };
            }
        }
    }

    fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
    }

    /// Whether a signal handler runs that interrupted code which may hold a
    /// lock.
    fn handles_signal_of(&self, target: &Target) -> bool {
        let restorer = |word: u64| {
            let mut code = [0; arch::SIGNAL_RETURN.len()];
            thread::read(target.pid, word, &mut code).is_ok() && code == arch::SIGNAL_RETURN
        };
        self.bytes
            .windows(arch::SIGNAL_FRAME)
            .step_by(8)
            .zip(self.words())
            .enumerate()
            .any(|(index, (frame, word))| {
                arch::interrupted(frame, self.start + index as u64 * 8)
                    .is_some_and(|at| target.is_careful(at) && restorer(word))
            })
    }
}
