//! Parts of the agent that have to see certain system calls of the process
//! before they are made, whether a program traces them or not. It knows none
//! of these parts.
//!
//! What an observer misses is told by [`super::sees_all`]; and the library's own
//! `syscall` instructions (`shm::sys`, `attach`) are never among what it sees.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use attach::{Hits, SyscallCallback, SyscallEvent, SyscallProbe, When};

use super::sight;

/// One call, as an observer is shown it.
#[repr(C)]
#[derive(Debug)]
pub struct Call {
    /// The number as the kernel takes it.
    pub nr: i64,
    /// All six argument registers, used or not.
    pub arguments: [u64; 6],
    /// What the call returned, an error as its negative number; before it 0.
    pub result: i64,
    /// The agent's own thread makes it, or one that works for the agent.
    pub is_own: bool,
}

/// Runs on the thread that makes the call, in the middle of the program: no
/// allocation, lock, libc, panic, AVX or TLS but ours. A signal handler may
/// bring it in again at any moment.
pub type Function = unsafe extern "C" fn(call: &Call);

/// What is observed, and by whom.
pub struct Observer {
    /// The numbers. Every instruction that may make one of these calls is hooked.
    pub numbers: &'static [i64],
    /// Before the call. A call that a program answers is shown, too.
    pub before: Option<Function>,
    /// Behind it, also in a child that it made; with the registers as they are
    /// then, which are those of before.
    pub after: Option<Function>,
    /// From now on calls may go unseen. Runs before the call from which on this
    /// is so, on its thread, under the conditions of [`Function`].
    pub blind: Option<unsafe extern "C" fn()>,
}

/// Most observers at a time.
const MOST: usize = 8;

static OBSERVERS: [AtomicPtr<Observer>; MOST] = [const { AtomicPtr::new(ptr::null_mut()) }; MOST];

/// The observer sees its calls when the round has been made in which, or before
/// which, it was added; [`super::sees_all`] says from when on it sees all. False
/// when there are too many.
pub fn add(observer: &'static Observer) -> bool {
    let new = ptr::from_ref(observer).cast_mut();
    if OBSERVERS.iter().any(|at| at.load(Ordering::Acquire) == new) {
        return true;
    }
    let take = |at: &AtomicPtr<Observer>| {
        at.compare_exchange(ptr::null_mut(), new, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    };
    let is_taken = OBSERVERS.iter().any(take);
    // Its calls may not be hooked yet.
    sight::lose();
    is_taken
}

/// Until the next round has been made the observer may still be called.
pub fn remove(observer: &'static Observer) {
    let old = ptr::from_ref(observer).cast_mut();
    for at in &OBSERVERS {
        let _was_there =
            at.compare_exchange(old, ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Whether there is any.
pub fn any() -> bool {
    all().next().is_some()
}

fn all() -> impl Iterator<Item = &'static Observer> {
    let at = OBSERVERS.iter().map(|at| at.load(Ordering::Acquire));
    // SAFETY: null, or from a reference that lives for ever.
    at.filter_map(|observer| unsafe { observer.as_ref() })
}

/// Whether a number is observed.
pub fn observe(nr: i64) -> bool {
    all().any(|observer| observer.numbers.contains(&nr))
}

/// Tells all that calls may go unseen. Reachable from trampolines.
pub fn tell_blind() {
    for blind in all().filter_map(|observer| observer.blind) {
        // SAFETY: whoever added the observer vouches for it.
        unsafe { blind() };
    }
}

/// What the engine is told of them.
pub fn probes() -> Vec<SyscallProbe> {
    let mut probes = Vec::new();
    for observer in all() {
        for nr in observer.numbers {
            if observer.before.is_some() {
                let data = ptr::from_ref(observer).cast();
                probes.push(probe(When::Enter, *nr, on_enter, data));
            }
            if observer.after.is_some() {
                let data = ptr::from_ref(observer).cast();
                probes.push(probe(When::Exit, *nr, on_exit, data));
            }
        }
    }
    probes
}

/// A probe of the agent's own at a number.
pub fn probe(when: When, nr: i64, callback: SyscallCallback, data: *const ()) -> SyscallProbe {
    SyscallProbe {
        when,
        nr: Some(nr as u32),
        callback,
        data,
        hits: Hits::UNCOUNTED,
        missed: ptr::null(),
        observes: true,
        light: None,
    }
}

unsafe extern "C" fn on_enter(event: *mut SyscallEvent, data: *const ()) {
    // SAFETY: `data` is an observer that lives for ever.
    let observer = unsafe { &*data.cast::<Observer>() };
    // SAFETY: the engine's event, valid during the call.
    let call = unsafe { call(&*event, false) };
    if let Some(function) = observer.before {
        // SAFETY: whoever added the observer vouches for it.
        unsafe { function(&call) };
    }
}

unsafe extern "C" fn on_exit(event: *mut SyscallEvent, data: *const ()) {
    // SAFETY: as in `on_enter`.
    let observer = unsafe { &*data.cast::<Observer>() };
    // SAFETY: as in `on_enter`.
    let call = unsafe { call(&*event, true) };
    if let Some(function) = observer.after {
        // SAFETY: as in `on_enter`.
        unsafe { function(&call) };
    }
}

fn call(event: &SyscallEvent, is_made: bool) -> Call {
    // SAFETY: valid during the engine's call.
    let regs = unsafe { &*event.regs };
    Call {
        nr: event.nr,
        arguments: [regs.di, regs.si, regs.dx, regs.r10, regs.r8, regs.r9],
        result: if is_made { regs.ax as i64 } else { 0 },
        is_own: event.is_own,
    }
}
