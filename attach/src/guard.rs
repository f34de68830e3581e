//! A probe never runs inside a probe of the same thread. Reachable from
//! trampolines: no allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{Ordering, compiler_fence};

use crate::arch::sys;
use crate::arch::thread::Thread;
use crate::shadow::Shadow;

/// What a running hit's frame holds where the guard points. Any number that
/// does not lie around, and that an instruction can store.
pub(crate) const MARK: u64 = 0x6270_6674;

/// A word in the frame of a running hit. Its address is the thread's guard:
/// a handler may siglongjmp(3) out of a hit and nobody resets the guard, but
/// then the frame is dead, which shows.
pub(crate) struct Mark(u64);

impl Mark {
    pub(crate) const fn new() -> Mark {
        Mark(0)
    }
}

/// Whether a hit may run its probes.
pub(crate) enum Admission {
    /// It runs; call [`leave`] afterwards.
    Run(&'static Shadow),
    /// A hit of this thread is running: count a miss.
    Nested,
    /// The thread is ours, or there is no memory for its block.
    Exempt,
}

/// Enters a hit whose frame holds `mark`.
#[inline]
pub(crate) fn enter(thread: &Thread, mark: &mut Mark) -> Admission {
    if thread.is_exempt.get() {
        return Admission::Exempt;
    }
    let Some(shadow) = Shadow::of(thread) else {
        return Admission::Exempt;
    };
    let here = &raw mut *mark as u64;
    let guard = shadow.guard.load(Ordering::Relaxed);
    if guard != 0 && is_running(guard, here) {
        return Admission::Nested;
    }
    // SAFETY: `mark` is exclusively ours. Volatile: a signal handler reads it
    // through the guard.
    unsafe { (&raw mut mark.0).write_volatile(MARK) };
    compiler_fence(Ordering::SeqCst);
    shadow.guard.store(here, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    Admission::Run(shadow)
}

/// As a hit of a thread that had one before; `None` if it had none, or is in one.
pub(crate) fn enter_again(thread: &Thread, mark: &mut Mark) -> Option<&'static Shadow> {
    if thread.shadow.get().is_null() {
        return None;
    }
    match enter(thread, mark) {
        Admission::Run(shadow) => Some(shadow),
        Admission::Nested | Admission::Exempt => None,
    }
}

/// Leaves a hit that was admitted.
#[inline]
pub(crate) fn leave(shadow: &Shadow, mark: &mut Mark) {
    compiler_fence(Ordering::SeqCst);
    // Release: who sees it may free what the hit used.
    shadow.guard.store(0, Ordering::Release);
    // SAFETY: as in `enter`.
    unsafe { (&raw mut mark.0).write_volatile(0) };
}

/// Whether the hit that set `guard` still runs, seen from a frame at `here`.
/// Wrong only towards "runs", and only until its stack is used again.
#[cold]
fn is_running(guard: u64, here: u64) -> bool {
    if !sys::is_readable(guard) {
        return false;
    }
    // SAFETY: readable just now; stacks of this thread do not go away while a
    // frame of it runs here.
    let mark = unsafe { (guard as *const u64).read_volatile() };
    if mark != MARK {
        return false;
    }
    // A frame below its caller's has been left, unless we are on another stack.
    here < guard || sys::on_alternate_stack()
}
