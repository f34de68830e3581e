//! Our handler: a breakpoint's thread goes on in its trampoline, as
//! if a jump had led there; what is not ours is the program's. It allocates
//! nothing, takes no lock, calls no libc and does not panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

use super::action::{self, Action, held_bit};
use super::table;
use crate::arch::trap as signals;
use crate::arch::{sys, thread};
use crate::syscalls::dispatch;

/// `si_code` of a breakpoint (arch/x86/kernel/traps.c, do_int3_user, 6.18).
const SI_KERNEL: i32 = 0x80;
const SA_RESETHAND: u64 = 0x8000_0000;
const IGNORED: u64 = 1;

/// Where the handler begins.
pub(super) fn handler_address() -> u64 {
    on_trap as *const () as u64
}

/// # Safety
/// Called by the kernel as a signal's handler only.
unsafe extern "C" fn on_trap(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
) {
    // SAFETY: the kernel's structure.
    let code = unsafe { (*info).si_code };
    // SAFETY: the caller's contract.
    let ip = unsafe { signals::instruction_pointer(context) };
    if signal == libc::SIGSYS {
        // SAFETY: as above.
        if unsafe { dispatch::redirect(info, context) } {
            return;
        }
    } else if code == SI_KERNEL {
        // SAFETY: as above. A breakpoint is one byte.
        let addr = unsafe { ip.read() }.wrapping_sub(1);
        if let Some(entry) = table::find(addr) {
            // SAFETY: as above.
            unsafe { ip.write(entry) };
            return;
        }
    }
    // SAFETY: as above.
    unsafe { pass_on(signal, info, context) };
}

/// Does what the program wants done about a SIGTRAP of its own.
///
/// # Safety
/// As for [`on_trap`].
unsafe fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel's structure.
    let is_sent = unsafe { (*info).si_code } <= 0;
    let thread = thread::current();
    if is_sent && thread.is_exempt.get() && sys::gettid() != sys::getpid() {
        // The kernel chose the agent's thread among all that do not block it.
        // SAFETY: the kernel's structure.
        let _sent = unsafe { signals::send(sys::getpid(), signal, info as u64) };
        return;
    }
    if is_sent && thread.blocks.get() & held_bit() != 0 && keep(info) {
        return;
    }
    let action = action::current();
    match action.handler {
        IGNORED if is_sent => {}
        // What the kernel forces on a thread is not ignored.
        0 | IGNORED => {
            signals::change_mask(libc::SIG_BLOCK, held_bit());
            let _default = action::change(signal, Some(Action::default()));
            // Delivered when this handler has returned, at the program's own
            // instruction.
            // SAFETY: the kernel's structure.
            let _sent = unsafe { signals::send(sys::gettid(), signal, info as u64) };
        }
        handler => {
            if action.flags & SA_RESETHAND != 0 {
                action::set(Action {
                    handler: 0,
                    ..action
                });
            }
            // SAFETY: the program gave it to be called so.
            let handler: unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t) =
                unsafe { core::mem::transmute(handler) };
            // SAFETY: as above.
            unsafe { handler(signal, info, context) };
        }
    }
}

/// A SIGTRAP that was sent to a thread that believes to block it.
struct Kept {
    state: AtomicU32,
    info: UnsafeCell<libc::siginfo_t>,
}

const NONE: u32 = 0;
const BUSY: u32 = 1;
const READY: u32 = 2;

// SAFETY: `info` is touched by who made the state `BUSY` only.
unsafe impl Sync for Kept {}

static KEPT: Kept = Kept {
    state: AtomicU32::new(NONE),
    // SAFETY: zeros are a valid value.
    info: UnsafeCell::new(unsafe { core::mem::zeroed() }),
};

/// Keeps a signal until a thread unblocks it. Of several one is kept, as in the
/// kernel; `info` is then the first's.
fn keep(info: *mut libc::siginfo_t) -> bool {
    let busy = KEPT
        .state
        .compare_exchange(NONE, BUSY, Ordering::Acquire, Ordering::Relaxed);
    if busy.is_ok() {
        // SAFETY: the kernel's structure to ours, which is ours alone now.
        unsafe { KEPT.info.get().copy_from_nonoverlapping(info, 1) };
        KEPT.state.store(READY, Ordering::Release);
    }
    true
}

/// The calling thread unblocks SIGTRAP: it gets what was kept.
pub(super) fn unblocked() {
    let busy = KEPT
        .state
        .compare_exchange(READY, BUSY, Ordering::Acquire, Ordering::Relaxed);
    if busy.is_err() {
        return;
    }
    // SAFETY: ours alone now.
    let mut info = unsafe { KEPT.info.get().read() };
    KEPT.state.store(NONE, Ordering::Release);
    // SAFETY: a copy of the kernel's structure.
    let _sent = unsafe { signals::send(sys::gettid(), info.si_signo, &raw mut info as u64) };
}

const _: () = assert!(offset_of!(libc::siginfo_t, si_code) == 8);
