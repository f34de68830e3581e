//! Breakpoints in this process: whether the user asked for them, whether they
//! would be safe here, and when they have to go. It knows no link; how they
//! work is the engine's.
//!
//! A thread that hits one while it blocks SIGTRAP is killed. So they are placed
//! only when every system call is seen, by which a thread could block it, no
//! thread blocks it yet, and nobody traces the process; and they go as soon as
//! one of these is no longer so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::log::debug;
use crate::syscalls::observers::{self, Observer};
use crate::threads;
use attach::breakpoints;

/// The user asked for them.
static WANTED: AtomicBool = AtomicBool::new(false);

/// Asks for them in a process that was started with it.
pub const VARIABLE: &str = "BPFTIME_BREAKPOINTS";

/// From now on they are wanted.
pub fn want() {
    WANTED.store(true, Ordering::Relaxed);
}

/// Whether they are wanted.
pub fn are_wanted() -> bool {
    WANTED.load(Ordering::Relaxed)
}

/// That its calls are hooked is what it is for: the engine has probes of its own
/// at them ([`breakpoints::surround`]).
static OBSERVER: Observer = Observer {
    numbers: breakpoints::OBSERVED,
    before: None,
    after: None,
    blind: None,
};

/// How long a thread may block SIGTRAP before it counts: libc does for moments.
const MOMENT: Duration = Duration::from_millis(300);
/// How long leaving waits for the threads that were hit last.
const LAST_HITS: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

/// What has been done for them.
#[derive(Default)]
pub struct Breakpoints {
    /// The program's dealings with SIGTRAP are ours.
    is_armed: bool,
    /// When the last one was taken away: the time each thread had run.
    leaving: Leaving,
}

/// Waits for the threads that may be about to run the handler.
#[derive(Default)]
pub struct Leaving(Option<BTreeMap<i32, Option<u64>>>);

impl Leaving {
    /// Whether none is, since this was asked first.
    pub fn is_over(&mut self) -> bool {
        let Some(before) = &mut self.0 else {
            self.0 = threads::others()
                .map(|all| all.into_iter().map(|tid| (tid, time_run(tid))).collect());
            return self.0.as_ref().is_some_and(BTreeMap::is_empty);
        };
        before.retain(|tid, then| !has_passed(*tid, *then));
        before.is_empty()
    }
}

impl Breakpoints {
    /// Has the calls observed that have to be; to be called before the rounds
    /// that hook them.
    pub fn prepare(&self) -> Result<(), String> {
        match observers::add(&OBSERVER) {
            true => Ok(()),
            false => Err("too many parts of the agent look at system calls".to_owned()),
        }
    }

    /// Sees to it that breakpoints may be placed; every system call is seen.
    pub fn arm(&mut self) -> Result<(), String> {
        self.leaving = Leaving::default();
        if self.is_armed {
            return Ok(());
        }
        breakpoints::arm().map_err(|error| format!("SIGTRAP cannot be handled: {error}"))?;
        breakpoints::enter_thread();
        self.is_armed = true;
        let deadline = Instant::now() + MOMENT;
        while let Some(doubt) = of_threads(blocks_trap, unknown) {
            if Instant::now() >= deadline {
                // None is there, so nobody is about to run the handler.
                self.disarm();
                return Err(doubt);
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Why those that are there have to go.
    pub fn doubt(&self, sees_calls: bool) -> Option<String> {
        if !self.is_armed {
            return None;
        }
        if !sees_calls || breakpoints::has_escaped() {
            return Some("not every system call of this process can be seen".to_owned());
        }
        if is_traced() {
            return Some("it is being debugged".to_owned());
        }
        of_threads(|tid| is_blocked(tid).then(|| blocked(tid)), unknown)
    }

    /// None is in the text. Whether all that was done for them is undone.
    pub fn leave(&mut self) -> bool {
        if !self.is_armed {
            observers::remove(&OBSERVER);
            return true;
        }
        if !self.leaving.is_over() {
            return false;
        }
        self.disarm();
        true
    }

    /// As [`Breakpoints::leave`], by when the agent goes. If a thread that was
    /// hit does not get to run, SIGTRAP stays ours: it will need the handler.
    pub fn leave_now(&mut self) {
        let deadline = Instant::now() + LAST_HITS;
        while !self.leave() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
    }

    fn disarm(&mut self) {
        debug!("SIGTRAP is the program's own again");
        breakpoints::disarm();
        breakpoints::leave_thread();
        observers::remove(&OBSERVER);
        self.is_armed = false;
        self.leaving = Leaving::default();
    }
}

/// How long a thread has to run until it cannot be on its way from a breakpoint
/// to the handler any more.
const WAY_TO_HANDLER: u64 = 2_000_000;

/// Whether a thread that had run for `before` when the last breakpoint went can
/// not be about to run the handler.
fn has_passed(tid: i32, before: Option<u64>) -> bool {
    let Some(status) = threads::read(tid, "status") else {
        return threads::has_gone(tid);
    };
    if has(&status, "SigPnd:", TAKEN) {
        return false;
    }
    // Nothing on that way sleeps.
    let is_running = threads::field(&status, "State:").is_none_or(|state| state.starts_with('R'));
    let has_run = time_run(tid).zip(before);
    !is_running || has_run.is_some_and(|(now, then)| now.saturating_sub(then) > WAY_TO_HANDLER)
}

/// Nanoseconds that a thread has run, if the kernel tells.
fn time_run(tid: i32) -> Option<u64> {
    let text = threads::read(tid, "schedstat")?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether the process is being debugged. A debugger takes breakpoints for its
/// own; and whoever attaches is one until the agent has started.
pub fn is_traced() -> bool {
    let is_not_zero = |tid| says_otherwise(tid, "TracerPid:", "0");
    is_not_zero(shm::sys::gettid()) || any_thread(is_not_zero)
}

/// What `why` says of the first thread of which it says something; `unknown`
/// where threads cannot be listed.
fn of_threads<T>(why: impl Fn(i32) -> Option<T>, unknown: impl Fn() -> T) -> Option<T> {
    match threads::others() {
        Some(all) => all.into_iter().find_map(why),
        None => Some(unknown()),
    }
}

/// Whether one is so, or they cannot be listed.
fn any_thread(is_so: impl Fn(i32) -> bool) -> bool {
    of_threads(|tid| is_so(tid).then_some(()), || ()).is_some()
}

fn unknown() -> String {
    "its threads cannot be looked at".to_owned()
}

/// Whether a thread's status has a line that is not `value`, or cannot be read.
fn says_otherwise(tid: i32, line: &str, value: &str) -> bool {
    match threads::read(tid, "status") {
        Some(status) => threads::field(&status, line).is_none_or(|found| found != value),
        None => !threads::has_gone(tid),
    }
}

fn blocked(tid: i32) -> String {
    format!("thread {tid} blocks SIGTRAP")
}

/// Why a thread must not hit a breakpoint.
fn blocks_trap(tid: i32) -> Option<String> {
    if is_blocked(tid) {
        return Some(blocked(tid));
    }
    waits_with_another_mask(tid)
        .then(|| format!("thread {tid} waits with signals blocked of which nothing is known"))
}

fn is_blocked(tid: i32) -> bool {
    match threads::read(tid, "status") {
        Some(status) => has(&status, "SigBlk:", TRAP),
        None => !threads::has_gone(tid),
    }
}

/// Whether a thread is in a call that will give it another signal mask at its
/// end than it has now.
fn waits_with_another_mask(tid: i32) -> bool {
    let Some(line) = threads::read(tid, "syscall") else {
        return !threads::has_gone(tid);
    };
    let mut words = line.split_ascii_whitespace();
    let number: Option<i64> = words.next().and_then(|word| word.parse().ok());
    let mut argument = |n: usize| words.nth(n).is_some_and(|word| word != "0x0");
    match number {
        Some(libc::SYS_rt_sigsuspend) => true,
        Some(libc::SYS_ppoll) => argument(3),
        Some(libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2) => argument(4),
        Some(libc::SYS_pselect6 | SYS_IO_PGETEVENTS) => argument(5),
        _ => false,
    }
}

const SYS_IO_PGETEVENTS: i64 = 333;

/// Whether system calls are filtered in this process.
pub fn is_filtered() -> bool {
    any_thread(|tid| says_otherwise(tid, "Seccomp:", "0"))
}

const TRAP: u64 = 1 << (libc::SIGTRAP - 1);
/// Signals that are ever taken over.
const TAKEN: u64 = TRAP | 1 << (libc::SIGSYS - 1);

/// Whether a set of signals in it holds one of these.
fn has(status: &str, name: &str, signals: u64) -> bool {
    let set = threads::field(status, name).and_then(|set| u64::from_str_radix(set, 16).ok());
    set.is_none_or(|set| set & signals != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc() {
        let status =
            "Name:\tx\nState:\tR (running)\nSigPnd:\t0000000000000010\nSigBlk:\t00000000000000ef\n";
        assert_eq!(threads::field(status, "State:"), Some("R (running)"));
        assert!(has(status, "SigPnd:", TRAP));
        assert!(!has(status, "SigBlk:", TRAP));
        // What is not told is feared.
        assert!(has(status, "SigCgt:", TRAP));
    }

    #[test]
    fn a_thread_that_waits_or_blocks_is_in_doubt() {
        let (tell, told) = std::sync::mpsc::channel();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // SAFETY: a set of this stack frame, which an all-zero value is.
            unsafe {
                let mut set = std::mem::zeroed();
                libc::sigaddset(&raw mut set, libc::SIGTRAP);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            }
            tell.send(shm::sys::gettid()).expect("somebody waits");
            let _ended = asked.recv();
        });
        let tid = told.recv().expect("a thread");
        assert_eq!(blocks_trap(tid), Some(blocked(tid)));
        // It is about to sleep.
        while !has_passed(tid, None) {
            std::thread::yield_now();
        }
        drop(ask);
        thread.join().expect("no panic");
        assert_eq!(blocks_trap(tid), None);
        assert!(has_passed(tid, None));
    }
}
