//! Thread-local words and current CPU of x86-64.
//! Called from trampolines.

pub(crate) mod aside;
pub(crate) mod readable;

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

// Six words per thread in the static TLS block. A Rust `thread_local!` would
// go through `__tls_get_addr`, which allocates on first use in a thread when
// the library was loaded by dlopen(3), possibly inside a probed malloc.
global_asm!(
    r#"
    .pushsection .tbss.bpftime_thread,"awT",@nobits
    .globl bpftime_thread
    .hidden bpftime_thread
    .type bpftime_thread,@object
    .size bpftime_thread,48
    .p2align 4
bpftime_thread:
    .zero 48
    .popsection
"#
);

/// How many words there are.
pub(crate) const WORDS: usize = 6;

/// The calling thread's words, all 0 in a new thread: two that say who it is
/// (`crate::thread`), the address of its word on the board of readers, how
/// many calls of it are under way that take memory away (`crate::readable`),
/// when it started, and what its end is told as.
#[inline(always)]
pub(crate) fn thread_words() -> *const [AtomicU64; WORDS] {
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
    address as *const [AtomicU64; WORDS]
}

/// Whether `rdpid` may be used; [`init`] finds out.
static HAS_RDPID: AtomicBool = AtomicBool::new(false);

/// Looks at the processor. Call outside of trampolines: in a virtual machine
/// `cpuid` takes microseconds.
pub(crate) fn init() {
    /// CPUID.(EAX=7,ECX=0):ECX.RDPID.
    const RDPID: u32 = 1 << 22;
    let has = core::arch::x86_64::__cpuid(0).eax >= 7
        && core::arch::x86_64::__cpuid_count(7, 0).ecx & RDPID != 0;
    HAS_RDPID.store(has, Ordering::Relaxed);
}

/// Whether `rdpid` may be used, once [`init`] was called.
#[inline(always)]
pub(crate) fn has_rdpid() -> bool {
    HAS_RDPID.load(Ordering::Relaxed)
}

/// The CPU this thread runs on at the moment, from where Linux keeps it for
/// its own vdso (arch/x86/include/asm/segment.h, `vdso_read_cpunode`); no
/// system call.
#[inline(always)]
pub(crate) fn cpu() -> u32 {
    #[cfg(feature = "model")]
    if shm::sync::model::thread_id().is_some() {
        return 0;
    }
    const CPUNODE_SEG: u32 = 15 * 8 + 3;
    const CPU_MASK: u32 = 0xfff;
    if has_rdpid() {
        let node_and_cpu: u64;
        // SAFETY: reads the TSC_AUX register; `init` saw that it may.
        unsafe {
            asm!("rdpid {}", out(reg) node_and_cpu, options(nomem, nostack, preserves_flags));
        }
        return node_and_cpu as u32 & CPU_MASK;
    }
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

/// The thread pointer: where libc's descriptor of this thread begins.
#[inline(always)]
pub(crate) fn thread_pointer() -> usize {
    let address: usize;
    // SAFETY: reads the thread pointer (`fs:0`, x86-64 psABI).
    unsafe {
        asm!("mov {0}, qword ptr fs:[0]", out(reg) address, options(nostack, pure, readonly, preserves_flags));
    }
    address
}

/// The stack pointer, somewhere in the frame of whom this is inlined into.
#[inline(always)]
pub(crate) fn stack_pointer() -> u64 {
    let address: u64;
    // SAFETY: reads a register.
    unsafe {
        asm!("mov {0}, rsp", out(reg) address, options(nomem, nostack, pure, preserves_flags));
    }
    address
}

/// The word at `from`, aligned or not, which others may be writing.
///
/// # Safety
/// `from` is readable for 8 bytes.
#[inline(always)]
pub(crate) unsafe fn load(from: *const u64) -> u64 {
    let word: u64;
    // SAFETY: the caller's contract.
    unsafe {
        asm!("mov {0}, qword ptr [{1}]", out(reg) word, in(reg) from, options(nostack, readonly, preserves_flags));
    }
    word
}

/// Replaces the two words at `at` if they are `old`: whether they were.
/// A full barrier.
///
/// # Safety
/// `at` is aligned to 16 and valid for reads and writes of 16 bytes, which
/// others only touch as atomics.
#[inline(always)]
pub(crate) unsafe fn replace_pair(at: *mut u64, old: [u64; 2], new: [u64; 2]) -> bool {
    let replaced: u64;
    // SAFETY: the caller's contract. `rbx`, which operands cannot name but may
    // be given, is put back; so the address has a register of its own.
    // `cmpxchg16b` is in every x86-64 processor since 2006.
    unsafe {
        asm!(
            "xchg rbx, {low}",
            "lock cmpxchg16b xmmword ptr [rdi]",
            "sete cl",
            "mov rbx, {low}",
            low = inout(reg) new[0] => _,
            in("rdi") at,
            inout("rcx") new[1] => replaced,
            inout("rax") old[0] => _,
            inout("rdx") old[1] => _,
            options(nostack),
        );
    }
    replaced as u8 != 0
}
