//! Signals by system calls, and the code that returns from our handler.
//! Reachable from a signal handler: no allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::arch::global_asm;

use uapi::Errno;

use super::sys::{self, syscall};

unsafe extern "C" {
    fn bpftime_attach_restorer();
}

// The bytes, and that no unwind rule is for them, tell unwinders and debuggers
// that a signal frame is there (gcc, libgcc/config/i386/linux-unwind.h). They
// look for a rule one byte before.
global_asm!(
    r#"
    .pushsection .text.bpftime_attach_restorer,"ax",@progbits
    .globl bpftime_attach_restorer
    .hidden bpftime_attach_restorer
    .type bpftime_attach_restorer,@function
    .p2align 4
    nop
bpftime_attach_restorer:
    mov rax, 15
    syscall
    .size bpftime_attach_restorer, . - bpftime_attach_restorer
    .popsection
"#
);

/// Where handlers of ours return to.
pub(crate) fn restorer_address() -> u64 {
    bpftime_attach_restorer as *const () as u64
}

/// From the stack pointer at rt_sigreturn(2), which points to a `ucontext`, to
/// the signal mask that it restores (arch/x86/include/uapi/asm/ucontext.h).
pub(crate) const MASK_IN_FRAME: u64 = 296;
const _: () =
    assert!(MASK_IN_FRAME as usize == core::mem::offset_of!(libc::ucontext_t, uc_sigmask));

/// The instruction pointer in a signal's context.
///
/// # Safety
/// `context` is what a running handler was given.
pub(crate) unsafe fn instruction_pointer(context: *mut libc::ucontext_t) -> *mut u64 {
    // SAFETY: the caller's contract.
    let registers = unsafe { &raw mut (*context).uc_mcontext.gregs };
    // SAFETY: the array has a place for it.
    unsafe { registers.cast::<u64>().add(libc::REG_RIP as usize) }
}

/// The register r11 in a signal's context.
///
/// # Safety
/// As for [`instruction_pointer`].
pub(crate) unsafe fn r11(context: *mut libc::ucontext_t) -> *mut u64 {
    // SAFETY: the caller's contract.
    let registers = unsafe { &raw mut (*context).uc_mcontext.gregs };
    // SAFETY: the array has a place for it.
    unsafe { registers.cast::<u64>().add(libc::REG_R11 as usize) }
}

/// prctl(2).
///
/// # Safety
/// What the call needs stays valid.
pub(crate) unsafe fn prctl(arguments: [u64; 6]) -> Result<u64, Errno> {
    // SAFETY: the caller's contract.
    unsafe { syscall(libc::SYS_prctl, arguments) }
}

/// The signals that the calling thread blocks.
pub(crate) fn blocked() -> u64 {
    let mut set = 0_u64;
    let arguments = [0, 0, &raw mut set as u64, 8, 0, 0];
    // SAFETY: the set is valid for eight bytes.
    let _asked = unsafe { syscall(libc::SYS_rt_sigprocmask, arguments) };
    set
}

/// rt_sigaction(2): the words of a `struct sigaction` as the kernel has it.
pub(crate) fn action(signal: i32, new: Option<&[u64; 4]>) -> Result<[u64; 4], Errno> {
    let mut old = [0; 4];
    let new = new.map_or(0, |new| new.as_ptr() as u64);
    let arguments = [signal as u64, new, old.as_mut_ptr() as u64, 8, 0, 0];
    // SAFETY: both structures are valid; what a handler does is its caller's
    // business.
    unsafe { syscall(libc::SYS_rt_sigaction, arguments) }.map(|_| old)
}

/// Blocks or unblocks a set of signals on the calling thread.
pub(crate) fn change_mask(how: i32, set: u64) {
    let arguments = [how as u64, &raw const set as u64, 0, 8, 0, 0];
    // SAFETY: the set is valid for eight bytes.
    let _changed = unsafe { syscall(libc::SYS_rt_sigprocmask, arguments) };
}

/// Sends a signal to a thread of this process as if it came from where `info`
/// says.
///
/// # Safety
/// `info` is a `siginfo_t`.
pub(crate) unsafe fn send(tid: u32, signal: i32, info: u64) -> Result<u64, Errno> {
    let pid = u64::from(sys::getpid());
    let arguments = [pid, tid.into(), signal as u64, info, 0, 0];
    // SAFETY: the caller's contract.
    unsafe { syscall(libc::SYS_rt_tgsigqueueinfo, arguments) }
}

/// Copies between this process's memory at `theirs`, which may be bad or denied,
/// and `ours`; to `theirs` if `is_write`. All or EFAULT.
///
/// # Safety
/// `ours` is valid for `len` bytes.
pub(crate) unsafe fn copy(theirs: u64, ours: u64, len: usize, is_write: bool) -> Result<(), Errno> {
    let (local, remote) = ([ours, len as u64], [theirs, len as u64]);
    let number = match is_write {
        true => libc::SYS_process_vm_writev,
        false => libc::SYS_process_vm_readv,
    };
    let vectors = (local.as_ptr() as u64, remote.as_ptr() as u64);
    let arguments = [u64::from(sys::getpid()), vectors.0, 1, vectors.1, 1, 0];
    // SAFETY: the caller's contract; the kernel checks the other side.
    match unsafe { syscall(number, arguments) } {
        Ok(done) if done == len as u64 => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// A page of our own that is zeros again in a forked child.
pub(crate) fn map_wiped_on_fork() -> Result<u64, Errno> {
    const PAGE: usize = 4096;
    let page = sys::map_private(PAGE)? as u64;
    let advice = [page, PAGE as u64, libc::MADV_WIPEONFORK as u64, 0, 0, 0];
    // SAFETY: the page was mapped just above.
    unsafe { syscall(libc::SYS_madvise, advice) }.map(|_| page)
}
