//! Thread-local words and current CPU of x86-64.
//! Called from trampolines.

use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicU64;

// Two words per thread in the static TLS block. A Rust `thread_local!` would
// go through `__tls_get_addr`, which allocates on first use in a thread when
// the library was loaded by dlopen(3), possibly inside a probed malloc.
global_asm!(
    r#"
    .pushsection .tbss.bpftime_thread,"awT",@nobits
    .globl bpftime_thread
    .hidden bpftime_thread
    .type bpftime_thread,@object
    .size bpftime_thread,16
    .p2align 4
bpftime_thread:
    .zero 16
    .popsection
"#
);

/// The calling thread's two words; both 0 in a new thread.
#[inline(always)]
pub(crate) fn thread_words() -> *const [AtomicU64; 2] {
    let address: usize;
    // SAFETY: reads the thread pointer (`fs:0`, x86-64 psABI) and adds the
    // symbol's offset in the static TLS block; nothing is written.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + bpftime_thread@gottpoff]",
            "add {0}, qword ptr fs:[0]",
            out(reg) address,
            options(nostack, readonly),
        );
    }
    address as *const [AtomicU64; 2]
}

/// The CPU this thread runs on at the moment, from the segment limit where
/// Linux keeps it for its own vdso (arch/x86/include/asm/segment.h,
/// `__CPUNODE_SEG`); no system call.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    const CPUNODE_SEG: u32 = 15 * 8 + 3;
    const CPU_MASK: u32 = 0xfff;
    let limit: u32;
    // SAFETY: `lsl` reads a descriptor's limit; a selector that is not there
    // leaves the register and clears ZF, which yields CPU 0 below.
    unsafe {
        asm!(
            "xor {limit:e}, {limit:e}",
            "lsl {limit:e}, {selector:e}",
            limit = out(reg) limit,
            selector = in(reg) CPUNODE_SEG,
            options(nomem, nostack),
        );
    }
    limit & CPU_MASK
}
