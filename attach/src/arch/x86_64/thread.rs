//! The words that each thread of the target carries for us, in initial-exec
//! TLS: found by two instructions, without a call.

use core::arch::{asm, global_asm};
use core::cell::Cell;

use crate::shadow::Shadow;

/// What one thread carries.
#[repr(C)]
pub(crate) struct Thread {
    /// The thread's block once it had a hit, else null. Trampolines read it.
    pub(crate) shadow: Cell<*mut Shadow>,
    /// Probes are skipped on this thread; it never has a block.
    pub(crate) is_exempt: Cell<bool>,
    /// Not 0: its calls from elsewhere raise SIGSYS.
    pub(crate) dispatched: Cell<u32>,
    /// Signals that the program believes this thread to block; and did before
    /// it made a child in this memory. Of those that are ever taken over.
    pub(crate) blocks: Cell<u64>,
    /// See `blocks`.
    pub(crate) blocked_before: Cell<u64>,
}

const _: () = assert!(size_of::<Thread>() <= 32);
const _: () = assert!(core::mem::offset_of!(Thread, shadow) == 0);

global_asm!(
    r#"
    .pushsection .tbss.bpftime_attach,"awT",@nobits
    .globl bpftime_attach_thread
    .hidden bpftime_attach_thread
    .type bpftime_attach_thread,@object
    .size bpftime_attach_thread,32
    .p2align 5
bpftime_attach_thread:
    .zero 32
    .popsection
"#
);

/// The calling thread's words. They die with the thread: do not keep them.
pub(crate) fn current<'a>() -> &'a Thread {
    let block: *const Thread;
    // SAFETY: reads the GOT entry of a defined TLS symbol and the thread
    // pointer at fs:0 (x86-64 TLS ABI).
    unsafe {
        asm!(
            "mov {block}, bpftime_attach_thread@gottpoff[rip]",
            "add {block}, qword ptr fs:[0]",
            block = out(reg) block,
            options(nostack, pure, readonly),
        );
    }
    // SAFETY: the block is zero-initialised per-thread memory, which is a valid
    // `Thread`, and only its own thread reaches it.
    unsafe { &*block }
}
