//! Keeps the signal from being blocked: a thread on which it is raised then is
//! killed by the kernel. Every call that passes a set of signals is given one
//! without it, and the program is told of one with it. Reachable from
//! trampolines: no allocation, no lock, no libc, no panic.
//!
//! The argument that points to the set points to memory of ours while the call
//! is under way, and to the program's again when it has returned: nobody's
//! memory is written to, handlers run outside of us, and a call that the
//! kernel restarts finds what it needs.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use uapi::{Errno, PtRegs};

use super::action::{self, ACTION_BYTES, Action, held, held_bit};
use super::slots::{self, Slot};
use super::{process, trap, user};
use crate::arch::thread;
use crate::arch::trap as signals;
use crate::counter::Hits;
use crate::syscalls::dispatch;
use crate::syscalls::{SyscallEvent, SyscallProbe, When};

/// Calls with a set of signals that may be blocked by them, calls that make
/// processes, and calls that take their place.
pub(crate) const OBSERVED: [i64; 15] = [
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigsuspend,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    SYS_IO_PGETEVENTS,
    libc::SYS_io_uring_enter,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_vfork,
    libc::SYS_fork,
];
const SYS_IO_PGETEVENTS: i64 = 333;

const IORING_ENTER_EXT_ARG: u64 = 1 << 3;
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const SET_BYTES: u64 = 8;
/// Where `struct sigaction` has its set, in words and in bytes.
const MASK_WORD: usize = 3;
const MASK_BYTE: u64 = 24;

/// Signals whose actions block SIGTRAP as far as the program knows.
pub(super) static BLOCK_HELD: AtomicU64 = AtomicU64::new(0);
/// A set got through as it was.
pub(super) static ESCAPED: AtomicBool = AtomicBool::new(false);

/// The observers of all these calls, on one side. What they change is not for
/// other probes to see: they come last before a call, and first behind it.
pub(crate) fn observers(when: When) -> Vec<SyscallProbe> {
    let observer = |when, nr: i64| SyscallProbe {
        when,
        nr: Some(nr as u32),
        callback: match when {
            When::Enter => on_enter,
            When::Exit => on_exit,
        },
        data: core::ptr::null(),
        hits: Hits::UNCOUNTED,
        missed: core::ptr::null(),
        observes: true,
        light: None,
    };
    OBSERVED.iter().map(|nr| observer(when, *nr)).collect()
}

unsafe extern "C" fn on_enter(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event and registers, ours during the call.
    let (event, regs) = unsafe { (&mut *event, &mut *(*event).regs) };
    let needs_slot = match event.nr {
        // A program has answered, so there is no call.
        _ if event.is_answered => false,
        libc::SYS_rt_sigaction if regs.di as i32 == held() => {
            let is_child = process::shares_memory();
            let answer = action::answer(regs.si, regs.dx, regs.r10, is_child);
            event.is_answered = true;
            event.answer = answer.map_or_else(|error| -i64::from(error.0), |zero| zero as i64);
            false
        }
        libc::SYS_rt_sigaction => enter_action(regs).unwrap_or_default(),
        libc::SYS_rt_sigprocmask => enter_mask(regs).unwrap_or_default(),
        libc::SYS_execve | libc::SYS_execveat => {
            if thread::current().blocks.get() & held_bit() != 0 {
                // The new program inherits it; until then only our code runs.
                signals::change_mask(libc::SIG_BLOCK, held_bit());
            }
            false
        }
        nr if is_child_maker(nr) => {
            process::shares_memory();
            let thread = thread::current();
            thread.blocked_before.set(thread.blocks.get());
            false
        }
        nr => enter_wait(regs, nr).unwrap_or_default(),
    };
    if !needs_slot {
        slots::none(regs.sp);
    }
}

unsafe extern "C" fn on_exit(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: as in `on_enter`.
    let (nr, regs) = unsafe { ((*event).nr, &mut *(*event).regs) };
    match nr {
        libc::SYS_execve | libc::SYS_execveat => {
            if thread::current().blocks.get() & held_bit() != 0 {
                signals::change_mask(libc::SIG_UNBLOCK, held_bit());
            }
        }
        nr if is_child_maker(nr) => exit_child_maker(regs, nr),
        nr => {
            let slot = slots::find(regs.sp);
            if let Some(slot) = slot.filter(|slot| slot.nr.load(Ordering::Relaxed) == nr as u64) {
                exit(regs, nr, slot);
            }
        }
    }
}

fn is_child_maker(nr: i64) -> bool {
    matches!(
        nr,
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_vfork | libc::SYS_fork
    )
}

/// rt_sigaction(2) of another signal. Whether its end has something to do.
fn enter_action(regs: &mut PtRegs) -> Result<bool, Errno> {
    let signal = regs.di as u32;
    let blocked = BLOCK_HELD.load(Ordering::Relaxed) & bit(signal) != 0;
    let mut action = Action::default();
    if regs.si != 0 {
        let mut bytes = [0; ACTION_BYTES];
        user::read(regs.si, &mut bytes)?;
        action = Action::from_bytes(&bytes);
    }
    let blocks = action.mask & held_bit() != 0;
    let concerns = blocks || blocked && (regs.si != 0 || regs.dx != 0);
    let Some(slot) = concerns
        .then(|| take(regs, libc::SYS_rt_sigaction))
        .flatten()
    else {
        return Ok(false);
    };
    slot.note.store(note(blocks, blocked), Ordering::Relaxed);
    if blocks {
        let words = [action.handler, action.flags, action.restorer];
        for (at, word) in words.into_iter().enumerate() {
            slot.put(at, word);
        }
        slot.put(MASK_WORD, action.mask & !held_bit());
        regs.si = slot.address();
    }
    Ok(true)
}

/// rt_sigprocmask(2). Whether its end has something to do.
fn enter_mask(regs: &mut PtRegs) -> Result<bool, Errno> {
    if regs.r10 != SET_BYTES {
        return Ok(false);
    }
    let thread = thread::current();
    let blocked = thread.blocks.get() & held_bit() != 0;
    let mut set = 0;
    let mut now = blocked;
    if regs.si != 0 {
        set = user::read_word(regs.si)?;
        let named = set & held_bit() != 0;
        now = match regs.di as i32 {
            libc::SIG_BLOCK => blocked || named,
            libc::SIG_UNBLOCK => blocked && !named,
            libc::SIG_SETMASK => named,
            _ => return Ok(false),
        };
    }
    let replaces = set & held_bit() != 0 && regs.di as i32 != libc::SIG_UNBLOCK;
    let told = blocked && regs.dx != 0;
    let slot = match replaces || told {
        true => take(regs, libc::SYS_rt_sigprocmask),
        false => None,
    };
    let others = thread.blocks.get() & !held_bit();
    thread.blocks.set(others | if now { held_bit() } else { 0 });
    if let Some(slot) = slot {
        slot.note.store(note(false, told), Ordering::Relaxed);
        if replaces {
            slot.put(0, set & !held_bit());
            regs.si = slot.address();
        }
    }
    if blocked && !now {
        trap::unblocked();
    }
    Ok(slot.is_some())
}

/// A call that waits with other signals blocked. Whether its end has something
/// to do.
fn enter_wait(regs: &mut PtRegs, nr: i64) -> Result<bool, Errno> {
    let place = *argument(regs, nr);
    if place == 0 {
        return Ok(false);
    }
    let is_pair = matches!(nr, libc::SYS_pselect6 | SYS_IO_PGETEVENTS);
    let is_extended = nr == libc::SYS_io_uring_enter && regs.r10 & IORING_ENTER_EXT_ARG != 0;
    // {set, its size}, or that and what else io_uring wants.
    let mut words = [0; 3];
    let of_structure = match (is_pair, is_extended) {
        (true, _) => 2,
        (_, true) => 3,
        _ => 0,
    };
    for (n, word) in words.iter_mut().take(of_structure).enumerate() {
        *word = user::read_word(place + 8 * n as u64)?;
    }
    let [inner, size, last] = words;
    let at = if of_structure == 0 { place } else { inner };
    if at == 0 {
        return Ok(false);
    }
    let set = user::read_word(at)?;
    if set & held_bit() == 0 {
        return Ok(false);
    }
    let Some(slot) = take(regs, nr) else {
        return Ok(false);
    };
    const SET: usize = 4;
    if of_structure == 0 {
        slot.put(0, set & !held_bit());
    } else {
        slot.put(SET, set & !held_bit());
        slot.put(0, slot.address() + 8 * SET as u64);
        slot.put(1, size);
        slot.put(2, last);
    }
    *argument(regs, nr) = slot.address();
    Ok(true)
}

/// A slot that knows the argument as the program gave it.
fn take(regs: &mut PtRegs, nr: i64) -> Option<&'static Slot> {
    let original = *argument(regs, nr);
    let slot = slots::take(regs.sp);
    match slot {
        Some(slot) => {
            slot.nr.store(nr as u64, Ordering::Relaxed);
            slot.original.store(original, Ordering::Relaxed);
            slot.note.store(0, Ordering::Relaxed);
        }
        None => {
            ESCAPED.store(true, Ordering::Relaxed);
            dispatch::forbid();
        }
    }
    slot
}

/// The argument that leads to a set of signals.
fn argument(regs: &mut PtRegs, nr: i64) -> &mut u64 {
    match nr {
        libc::SYS_rt_sigsuspend => &mut regs.di,
        libc::SYS_rt_sigaction | libc::SYS_rt_sigprocmask => &mut regs.si,
        libc::SYS_ppoll => &mut regs.r10,
        libc::SYS_pselect6 | SYS_IO_PGETEVENTS => &mut regs.r9,
        _ => &mut regs.r8,
    }
}

/// Puts the argument back, and tells the program what it expects.
fn exit(regs: &mut PtRegs, nr: i64, slot: &Slot) {
    let original = slot.original.load(Ordering::Relaxed);
    let (blocks, told) = noted(slot.note.load(Ordering::Relaxed));
    let replaced = *argument(regs, nr) == slot.address();
    slot.release();
    if replaced {
        *argument(regs, nr) = original;
    }
    if regs.ax != 0 {
        return;
    }
    let of_old = match nr {
        libc::SYS_rt_sigprocmask => 0,
        libc::SYS_rt_sigaction => {
            let bit = bit(regs.di as u32);
            if regs.si != 0 && !process::shares_memory() {
                match blocks {
                    true => BLOCK_HELD.fetch_or(bit, Ordering::Relaxed),
                    false => BLOCK_HELD.fetch_and(!bit, Ordering::Relaxed),
                };
            }
            MASK_BYTE
        }
        _ => return,
    };
    if told && regs.dx != 0 {
        let at = regs.dx + of_old;
        if let Ok(set) = user::read_word(at) {
            let _written = user::write(at, &(set | held_bit()).to_le_bytes());
        }
    }
}

/// A child, or its parent: a vfork(2) child had the parent's words until now.
fn exit_child_maker(regs: &PtRegs, nr: i64) {
    let flags = match nr {
        libc::SYS_clone => regs.di,
        libc::SYS_clone3 => user::read_word(regs.di).unwrap_or_default(),
        libc::SYS_vfork => (libc::CLONE_VM | libc::CLONE_VFORK) as u64,
        _ => 0,
    };
    let has = |flag: i32| flags & flag as u64 != 0;
    if regs.ax == 0 {
        if flags & CLONE_CLEAR_SIGHAND != 0 {
            let _installed = action::install();
        }
    } else if has(libc::CLONE_VFORK) && has(libc::CLONE_VM) && !has(libc::CLONE_THREAD) {
        let thread = thread::current();
        thread.blocks.set(thread.blocked_before.get());
    }
}

fn bit(signal: u32) -> u64 {
    1_u64.checked_shl(signal.wrapping_sub(1)).unwrap_or(0)
}

fn note(blocks: bool, told: bool) -> u64 {
    u64::from(blocks) | u64::from(told) << 1
}

fn noted(note: u64) -> (bool, bool) {
    (note & 1 != 0, note & 2 != 0)
}
