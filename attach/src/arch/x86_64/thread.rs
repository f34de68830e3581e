//! The 32 bytes that each thread of the target carries for us, in initial-exec
//! TLS: found by two instructions, without a call.

use core::arch::{asm, global_asm};
use core::cell::Cell;

use crate::shadow::Shadow;

/// What one thread carries.
#[repr(C)]
pub(crate) struct Thread {
    /// 0, or the guard of the running hit (`crate::guard`).
    pub(crate) guard: Cell<u64>,
    /// The thread's shadow stack once it had a return probe, else null.
    pub(crate) shadow: Cell<*mut Shadow>,
}

const _: () = assert!(size_of::<Thread>() <= 32);

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

/// The calling thread's block. It dies with the thread: do not keep it.
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
