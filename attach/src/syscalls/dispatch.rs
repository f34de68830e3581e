//! System calls of code that cannot be hooked, for it may change at any time:
//! by Syscall User Dispatch the kernel raises SIGSYS for each call that is made
//! from outside of this library. The handler makes no call and runs no probe:
//! the thread goes on where the trampoline of a hooked instruction leads.
//! Reachable from a signal handler and from trampolines: no allocation, no
//! lock, no libc, no panic, but for [`start`].
//!
//! Threads dispatch by themselves, at their next hooked call. Whatever is not as
//! expected lets all calls pass at once, unseen: [`forbid`].
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

use uapi::Errno;

use super::hit::Entry;
use super::planning::{Dispatched, make_dispatched};
use super::{SyscallEvent, SyscallProbe, When};
use crate::arch::syscalls::light;
use crate::arch::thread;
use crate::arch::trap as signals;
use crate::breakpoints;
use crate::counter::Hits;

/// Places that calls are made from; more are not followed.
const PLACES: usize = 64;

/// Most starts.
const STARTS_MOST: usize = 1024;

/// What the kernel looks at: whether calls pass. Each start has its own, so that
/// a thread which dispatched before does not before it is ready again: it may
/// block SIGSYS.
static SELECTORS: [AtomicU8; STARTS_MOST] = [const { AtomicU8::new(PASS) }; STARTS_MOST];
const PASS: u8 = 0;
const BLOCK: u8 = 1;

/// Never again: dispatching would harm.
static FORBIDDEN: AtomicBool = AtomicBool::new(false);
/// Counts the starts: each has every thread dispatch anew.
static STARTS: AtomicU32 = AtomicU32::new(0);
/// Text of this library: its calls pass.
static OWN_TEXT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Where a call was made from, and what leads from there; made beforehand.
struct Place {
    continuation: AtomicU64,
    made: AtomicPtr<Dispatched>,
    is_ready: AtomicBool,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        continuation: AtomicU64::new(0),
        made: AtomicPtr::new(core::ptr::null_mut()),
        is_ready: AtomicBool::new(false),
    }
}; PLACES];

const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
/// `si_code` of a dispatched call (asm-generic/siginfo.h).
const SYS_USER_DISPATCH: i32 = 2;
/// uretprobe(2) and uprobe(2), which kernels from 6.11 and 6.18 on make from
/// memory of their own, and nowhere else.
const OF_KERNEL: [u32; 2] = [335, 336];
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// From now on threads dispatch at their next call, if all is hooked and
/// [`observers`] see every call. `own_text` is where this library's code lies.
///
/// # Errors
/// The kernel's, EBUSY if the program has an action for SIGSYS, or a breakpoint
/// is there, EPERM if dispatching would do harm.
pub fn start(own_text: &Range<usize>) -> Result<(), Errno> {
    if FORBIDDEN.load(Ordering::Relaxed) {
        return Err(Errno::EPERM);
    }
    if is_on() {
        return Ok(());
    }
    for place in &TABLE {
        if place.made.load(Ordering::Relaxed).is_null() {
            let made = make_dispatched().ok_or(Errno::ENOMEM)?;
            place.made.store(made, Ordering::Release);
        }
    }
    if STARTS.load(Ordering::Relaxed) as usize + 1 >= STARTS_MOST {
        return Err(Errno::ENOSPC);
    }
    if !breakpoints::is_free_for(libc::SIGSYS) {
        return Err(Errno::EBUSY);
    }
    if let Err(error) = breakpoints::take_over(libc::SIGSYS) {
        breakpoints::disarm();
        return Err(error);
    }
    let [begin, len] = &OWN_TEXT;
    begin.store(own_text.start as u64, Ordering::Relaxed);
    len.store(own_text.len() as u64, Ordering::Relaxed);
    STARTS.fetch_add(1, Ordering::SeqCst);
    selector().store(BLOCK, Ordering::SeqCst);
    Ok(())
}

/// Calls pass from now on. SIGSYS stays ours for threads that are on their way
/// to the handler, until [`breakpoints::disarm`].
pub fn stop() {
    selector().store(PASS, Ordering::SeqCst);
}

/// Calls pass from now on and for ever.
pub(crate) fn forbid() {
    FORBIDDEN.store(true, Ordering::SeqCst);
    stop();
}

/// Of the last start.
fn selector() -> &'static AtomicU8 {
    static NONE: AtomicU8 = AtomicU8::new(PASS);
    let start = STARTS.load(Ordering::Acquire) as usize;
    SELECTORS.get(start).unwrap_or(&NONE)
}

/// Whether calls are dispatched.
pub fn is_on() -> bool {
    selector().load(Ordering::Relaxed) == BLOCK
}

/// Whether they are not to be any more.
pub fn is_forbidden() -> bool {
    FORBIDDEN.load(Ordering::Relaxed)
}

/// Looks again at what only calls change that may have been made before their
/// thread dispatched. False if SIGSYS is not ours any more.
pub fn is_sound() -> bool {
    breakpoints::is_ours() && breakpoints::unblock_in_actions().is_ok()
}

/// Lets every thread dispatch at its next call: before all other probes.
pub fn surround(probes: &mut Vec<SyscallProbe>) {
    let observer = |when, callback| SyscallProbe {
        when,
        nr: None,
        callback,
        data: core::ptr::null(),
        hits: Hits::UNCOUNTED,
        missed: core::ptr::null(),
        observes: true,
        light: None,
    };
    probes.insert(0, observer(When::Enter, on_enter));
    probes.insert(0, observer(When::Exit, on_exit));
}

unsafe extern "C" fn on_enter(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event and registers, ours during the call.
    let (event, regs) = unsafe { (&*event, &mut *(*event).regs) };
    if event.is_own || !is_on() {
        return;
    }
    let is_its_own = match event.nr {
        libc::SYS_seccomp => true,
        libc::SYS_prctl => {
            regs.di == libc::PR_SET_SECCOMP as u64 || regs.di == PR_SET_SYSCALL_USER_DISPATCH
        }
        libc::SYS_ptrace => regs.di == u64::from(libc::PTRACE_TRACEME),
        _ => false,
    };
    let thread = thread::current();
    if is_its_own {
        forbid();
        if event.nr == libc::SYS_prctl {
            thread.dispatched.set(0);
        }
        return;
    }
    if thread.dispatched.get() != STARTS.load(Ordering::Relaxed) {
        dispatch();
    }
    if event.nr == libc::SYS_rt_sigreturn {
        // SAFETY: the kernel is about to read the frame there.
        unsafe { unblock_in_frame(regs.sp) };
    }
}

/// In a child, which does not inherit it.
unsafe extern "C" fn on_exit(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: as in `on_enter`.
    let (event, regs) = unsafe { (&*event, &*(*event).regs) };
    let is_child = super::hit::CHILDREN.contains(&event.nr) && regs.ax == 0;
    if is_child && !event.is_own && is_on() {
        dispatch();
    }
}

/// The calling thread dispatches, and does not block SIGSYS.
fn dispatch() {
    let starts = STARTS.load(Ordering::Relaxed);
    let selector = selector();
    thread::current().dispatched.set(starts);
    let bit = 1 << (libc::SIGSYS - 1);
    if signals::blocked() & bit != 0 {
        let blocks = &thread::current().blocks;
        blocks.set(blocks.get() | bit);
        signals::change_mask(libc::SIG_UNBLOCK, bit);
    }
    let [begin, len] = &OWN_TEXT;
    let arguments = [
        PR_SET_SYSCALL_USER_DISPATCH,
        1,
        begin.load(Ordering::Relaxed),
        len.load(Ordering::Relaxed),
        selector.as_ptr() as u64,
        0,
    ];
    // SAFETY: the selector lives for ever.
    if unsafe { signals::prctl(arguments) }.is_err() {
        forbid();
    }
}

/// A handler that began before its thread dispatched returns to a mask with
/// SIGSYS in it.
///
/// # Safety
/// A signal's frame is at `sp`.
unsafe fn unblock_in_frame(sp: u64) {
    let bit: u64 = 1 << (libc::SIGSYS - 1);
    let at = sp.wrapping_add(signals::MASK_IN_FRAME);
    let Ok(mask) = breakpoints::user::read_word(at) else {
        return;
    };
    if mask & bit != 0 {
        let _written = breakpoints::user::write(at, &(mask & !bit).to_le_bytes());
        let blocks = &thread::current().blocks;
        blocks.set(blocks.get() | bit);
    }
}

/// A SIGSYS: if it is for a call that we dispatch, the thread goes on as from a
/// hooked instruction.
///
/// # Safety
/// What a running handler was given.
pub(crate) unsafe fn redirect(
    info: *const libc::siginfo_t,
    context: *mut libc::ucontext_t,
) -> bool {
    // SAFETY: the kernel's structure.
    let code = unsafe { (*info).si_code };
    if code != SYS_USER_DISPATCH || thread::current().dispatched.get() == 0 {
        return false;
    }
    // SAFETY: behind the code and an address these follow.
    let [number, arch] = unsafe { info.cast::<u32>().add(6).cast::<[u32; 2]>().read() };
    // SAFETY: the caller's contract.
    let ip = unsafe { signals::instruction_pointer(context) };
    // SAFETY: as above.
    let continuation = unsafe { ip.read() };
    let entry = match arch {
        AUDIT_ARCH_X86_64 if !OF_KERNEL.contains(&number) => entry(continuation),
        _ => None,
    };
    let Some(entry) = entry else {
        forbid();
        // Once more, unseen; both instructions have two bytes.
        // SAFETY: as above.
        unsafe { ip.write(continuation.wrapping_sub(2)) };
        return true;
    };
    // SAFETY: as above.
    unsafe {
        ip.write(light::enter_address());
        signals::r11(context).write(core::ptr::from_ref(entry) as u64);
    }
    true
}

/// What leads from the call behind which the program goes on there.
fn entry(continuation: u64) -> Option<&'static Entry> {
    for place in &TABLE {
        let taken = place.continuation.compare_exchange(
            0,
            continuation,
            Ordering::Acquire,
            Ordering::Acquire,
        );
        // SAFETY: null, or made for ever.
        let made = unsafe { place.made.load(Ordering::Acquire).as_ref() }?;
        match taken {
            Ok(_) => {}
            Err(there) if there == continuation => {}
            Err(_) => continue,
        }
        if !place.is_ready.load(Ordering::Acquire) {
            // Others may do so too, and store the same.
            made.aim(continuation);
            place.is_ready.store(true, Ordering::Release);
        }
        return Some(made.entry);
    }
    None
}
