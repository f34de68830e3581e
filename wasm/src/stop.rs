//! How a guest is ended from outside: by a limit of time or a signal. It does
//! not know who asks.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use wasmtime::Engine;

/// How long a host's call may go on without looking whether it is to end.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// No signal has this number, and none the other.
const NOBODY: i32 = 0;
const TIMEOUT: i32 = -1;
const GONE: i32 = -2;

/// Why a guest is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its time is over.
    Timeout,
    /// The process that it traces has ended.
    Gone,
    /// The process got this signal.
    Signal(i32),
}

/// A request to end, from any thread, before or while the guest runs.
pub struct Stop {
    reason: AtomicI32,
    ended: AtomicBool,
    engine: OnceLock<Engine>,
    /// Wakes who waits. Without one (no fd is left) they look every [`LOOK`].
    wake: Option<EventFd>,
}

impl Default for Stop {
    fn default() -> Stop {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Stop {
            reason: AtomicI32::new(NOBODY),
            ended: AtomicBool::new(false),
            engine: OnceLock::new(),
            wake: EventFd::from_flags(flags).ok(),
        }
    }
}

impl Stop {
    /// Asks the guest to end: in its code and where it waits for time or streams
    /// at once, in calls that wait for records within a tenth of a second. The
    /// first reason counts.
    pub fn ask(&self, reason: Reason) {
        let reason = match reason {
            Reason::Timeout => TIMEOUT,
            Reason::Gone => GONE,
            Reason::Signal(number) => number,
        };
        // Pairs with the load in `begin`: either that sees the reason, or this the engine.
        let first =
            self.reason
                .compare_exchange(NOBODY, reason, Ordering::SeqCst, Ordering::SeqCst);
        if let (Ok(_), Some(engine)) = (first, self.engine.get()) {
            engine.increment_epoch();
        }
        if let Some(wake) = &self.wake {
            // Fails only if it was written to 2^64 times.
            let _ = wake.write(1);
        }
    }

    /// Waits until one of these streams of the process can be read or written,
    /// until `due`, or until the guest is to end. May come back early.
    pub(crate) fn wait(&self, streams: &[(RawFd, PollFlags)], due: Option<Instant>) {
        let left = due.map(|due| due.saturating_duration_since(Instant::now()));
        let most = match self.wake {
            Some(_) => Duration::from_secs(3600),
            None => LOOK,
        };
        Stop::poll(streams, self.wake.as_ref(), left.unwrap_or(most).min(most));
    }

    /// ppoll(2): whether one of them is ready.
    pub(crate) fn poll(
        streams: &[(RawFd, PollFlags)],
        wake: Option<&EventFd>,
        time: Duration,
    ) -> bool {
        let one = |&(fd, flags): &(RawFd, PollFlags)| {
            // SAFETY: the standard streams of a process are never closed by it.
            PollFd::new(unsafe { BorrowedFd::borrow_raw(fd) }, flags)
        };
        let wake = wake.map(|wake| PollFd::new(wake.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> = streams.iter().map(one).chain(wake).collect();
        ppoll(&mut fds, Some(TimeSpec::from(time)), None).is_ok_and(|count| count > 0)
    }

    /// Whether and why it is to end.
    pub fn asked(&self) -> Option<Reason> {
        match self.reason.load(Ordering::SeqCst) {
            NOBODY => None,
            TIMEOUT => Some(Reason::Timeout),
            GONE => Some(Reason::Gone),
            number => Some(Reason::Signal(number)),
        }
    }

    /// Whether the guest runs no more, and what it had is being taken away.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }

    /// From now on code of this engine's can be ended.
    pub(crate) fn begin(&self, engine: &Engine) {
        let engine = self.engine.get_or_init(|| engine.clone());
        if self.asked().is_some() {
            engine.increment_epoch();
        }
    }

    /// What a call returns that has waited and may go on, or not.
    pub(crate) fn check(&self) -> wasmtime::Result<()> {
        match self.asked() {
            None => Ok(()),
            Some(_) => Err(wasmtime::Error::new(Stopped)),
        }
    }
}

/// What ends a guest whose host's call saw the request.
#[derive(Debug)]
struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped")
    }
}

impl std::error::Error for Stopped {}
