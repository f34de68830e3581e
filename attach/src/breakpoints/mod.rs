//! Breakpoints, for places that take no jump: only where the user asked for
//! them, since a breakpoint needs a handler for SIGTRAP. It knows no probe.
//!
//! The handler changes nothing but the instruction pointer: the thread goes on
//! in the place's trampoline, as if a jump had led there. So probes, return
//! probes and detaching are those of any other place, and no probe runs inside
//! a signal handler.
//!
//! The program's own dealings with SIGTRAP are kept from the kernel: what it
//! asks to be done about that signal ([`action`]), and that it is blocked
//! ([`masks`]), for a thread that hits a breakpoint then would be killed. That
//! rests on seeing every system call, for which the caller vouches.
//!
//! Reading order: this file, [`table`] (what leads where), [`trap`] (the
//! handler), [`action`], [`masks`] and [`slots`] (what the program is told),
//! [`process`] and [`user`].

pub(crate) mod action;
mod masks;
mod process;
mod slots;
pub(crate) mod table;
mod trap;
pub(crate) mod user;

use core::sync::atomic::{AtomicBool, Ordering};

use uapi::Errno;

use crate::arch::sys;
use crate::arch::trap as signals;
use crate::syscalls::{SyscallProbe, When};
use action::{Action, held_bit};

/// Which places get a breakpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breakpoints {
    /// None.
    Never,
    /// Those that take no jump.
    WhereNeeded,
    /// All: for tests.
    Everywhere,
}

/// The kernel has our handler.
static ARMED: AtomicBool = AtomicBool::new(false);

/// Signals that there are.
const SIGNALS: i32 = 64;

/// The calls that [`surround`] is about.
pub const OBSERVED: &[i64] = &masks::OBSERVED;

/// Adds what must see every system call from before [`arm`] until after
/// [`disarm`]: behind all other probes before a call, and before them behind it.
pub fn surround(probes: &mut Vec<SyscallProbe>) {
    probes.splice(0..0, masks::observers(When::Exit));
    probes.extend(masks::observers(When::Enter));
}

/// Takes SIGTRAP over and keeps all threads from blocking it from now on; none
/// of them must block it already when the first breakpoint is placed, nor the
/// agent's own ([`enter_thread`]).
///
/// # Errors
/// The kernel's. Nothing has changed then.
pub fn arm() -> Result<(), Errno> {
    take_over(libc::SIGTRAP)
}

/// As [`arm`], for another signal: one at a time.
pub(crate) fn take_over(signal: i32) -> Result<(), Errno> {
    if ARMED.load(Ordering::Relaxed) {
        return match action::held() == signal {
            true => Ok(()),
            false => Err(Errno::EBUSY),
        };
    }
    process::init()?;
    let before = action::change(signal, None)?;
    action::HELD.store(signal, Ordering::Relaxed);
    action::set(before);
    action::install()?;
    ARMED.store(true, Ordering::Relaxed);
    sys::NEVER_BLOCKED.store(held_bit(), Ordering::Relaxed);
    unblock_in_actions()
}

/// All handlers are to run without the signal blocked.
pub(crate) fn unblock_in_actions() -> Result<(), Errno> {
    (1..=SIGNALS)
        .filter(|signal| *signal != action::held())
        .try_for_each(unblock_in_action)
}

/// Whether the signal can be taken over, or is, and was the program's default.
pub(crate) fn is_free_for(signal: i32) -> bool {
    match is_armed() {
        true => action::held() == signal,
        false => action::change(signal, None).is_ok_and(|before| before.handler == 0),
    }
}

/// Whether the kernel has our handler still.
pub(crate) fn is_ours() -> bool {
    let now = action::change(action::held(), None);
    now.is_ok_and(|now| now.handler == trap::handler_address())
}

/// The handler of a signal is to run without SIGTRAP blocked.
fn unblock_in_action(signal: i32) -> Result<(), Errno> {
    let mut action = match action::change(signal, None) {
        Ok(action) => action,
        Err(Errno::EINVAL) => return Ok(()),
        Err(error) => return Err(error),
    };
    while action.is_function() && action.mask & held_bit() != 0 {
        masks::BLOCK_HELD.fetch_or(1 << (signal - 1), Ordering::Relaxed);
        let new = Action {
            mask: action.mask & !held_bit(),
            ..action
        };
        let old = action::change(signal, Some(new))?;
        if old == action {
            break;
        }
        // The program has changed it meanwhile, so that comes last.
        action = action::change(signal, Some(old)).map(|_| old)?;
    }
    Ok(())
}

/// Gives SIGTRAP back to the program. No thread may hit a breakpoint any more,
/// nor be about to run the handler.
pub fn disarm() {
    if !ARMED.swap(false, Ordering::Relaxed) {
        return;
    }
    for signal in 1..=SIGNALS {
        let bit = 1 << (signal - 1);
        if masks::BLOCK_HELD.fetch_and(!bit, Ordering::Relaxed) & bit == 0 {
            continue;
        }
        let Ok(action) = action::change(signal, None) else {
            continue;
        };
        if action.is_function() {
            let mask = action.mask | held_bit();
            let _given_back = action::change(signal, Some(Action { mask, ..action }));
        }
    }
    if is_ours() {
        let _given_back = action::change(action::held(), Some(action::current()));
    }
    sys::NEVER_BLOCKED.store(0, Ordering::Relaxed);
}

/// Whether a signal is taken over.
pub fn is_armed() -> bool {
    ARMED.load(Ordering::Relaxed)
}

/// To be called on a new thread of the agent's own.
pub fn enter_thread() {
    if is_armed() {
        signals::change_mask(libc::SIG_UNBLOCK, held_bit());
    }
}

/// To be called on a thread of the agent's own when SIGTRAP was given back.
pub fn leave_thread() {
    signals::change_mask(libc::SIG_BLOCK, held_bit());
}

/// Whether a set of signals got through with SIGTRAP in it, so that breakpoints
/// have to go.
pub fn has_escaped() -> bool {
    masks::ESCAPED.load(Ordering::Relaxed)
}
