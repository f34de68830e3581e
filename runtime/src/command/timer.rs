//! Programs that run periodically in this process: what a `CPU_CLOCK` event
//! on the first CPU is used for (bpftrace's `interval`). It knows no sampling.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use uapi::Errno;

use super::ProgObject;
use super::object::{Home, locked};
use crate::program::LoadedProgram;
use crate::sample::CTX_WORDS;

/// Periods shorter than this are stretched to it, as the kernel does for
/// clocks (`perf_swevent_init_hrtimer`: at least 10 µs).
const LEAST_PERIOD: Duration = Duration::from_micros(10);

/// A running timer; stops when dropped.
pub(super) struct Timer {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Timer {
    /// Runs `prog` every `period` on a thread of its own.
    ///
    /// # Errors
    /// EAGAIN without a thread; ENOMEM when the program cannot be compiled.
    pub(super) fn start(
        prog: &Arc<ProgObject>,
        period: Duration,
        cookie: u64,
    ) -> Result<Timer, Errno> {
        let period = period.max(LEAST_PERIOD);
        let home = Arc::clone(prog.home());
        home.here()?;
        let loaded =
            LoadedProgram::load(home.session()?, prog.id()).map_err(|e| Errno::from(&e))?;
        let stop = Arc::new(Stop::default());
        let seen = Arc::clone(&stop);
        // The tool's handlers must not run on our thread.
        let thread = with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("bpftime".to_owned())
                .spawn(move || run(&home, &loaded, &seen, period, cookie))
        })
        .map_err(|_| Errno::EAGAIN)?;
        Ok(Timer {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        *locked(&self.stop.stopped) = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has stopped as well.
            let _ = thread.join();
        }
    }
}

fn run(home: &Home, loaded: &LoadedProgram, stop: &Stop, period: Duration, cookie: u64) {
    let mut next = Instant::now() + period;
    let mut stopped = locked(&stop.stopped);
    while !*stopped {
        let now = Instant::now();
        if now < next {
            let waited = stop.changed.wait_timeout(stopped, next - now);
            stopped = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            continue;
        }
        drop(stopped);
        let mut ctx = [0u64; CTX_WORDS];
        ctx[CTX_WORDS - 2] = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        // A run that finds no vCPU is missed, as a late tick would be.
        let _ = home
            .here()
            .and_then(|here| here.run(loaded, &mut ctx, cookie));
        next += period;
        // A machine that slept or was busy does not catch up with a burst.
        next = next.max(Instant::now());
        stopped = locked(&stop.stopped);
    }
}

/// Runs `start`, which makes threads, with all signals blocked, so that those
/// threads never run a handler of the tool.
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    let old = change_mask(u64::MAX);
    let made = start();
    change_mask(old);
    made
}

/// Sets this thread's signal mask; returns the old one.
fn change_mask(new: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: the kernel reads and writes one word of its signal set each,
    // which is 8 bytes; blocked signals stay pending.
    let changed = unsafe {
        shm::sys::syscall6(
            libc::SYS_rt_sigprocmask as usize,
            libc::SIG_SETMASK as usize,
            &raw const new as usize,
            &raw mut old as usize,
            size_of::<u64>(),
            0,
            0,
        )
    };
    debug_assert_eq!(changed, 0, "a valid mask is accepted");
    old
}
