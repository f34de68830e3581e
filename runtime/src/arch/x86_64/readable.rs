//! The copy out of the table of readable ranges, in a restartable sequence
//! (rseq(2)): the kernel lets no thread go on inside of one after a signal,
//! after it was preempted, or after a membarrier(2) that asks for that, but
//! sends it to `abort`. `crate::readable` says what that is good for.

use core::arch::global_asm;
use core::sync::atomic::{AtomicPtr, AtomicUsize};

use crate::readable::layout::{ACTIVE, END, HINT_SHIFT, HINTS, START};

/// What libc registers its threads with (RSEQ_SIG); it has to stand before
/// the code to which the kernel sends them.
pub(crate) const SIGNATURE: u32 = 0x5305_3053;

unsafe extern "C" {
    /// Copies `len` bytes from the table's ranges. Gives one of the numbers below.
    fn bpftime_readable_copy(to: *mut u8, from: u64, len: usize) -> u32;
    static bpftime_readable_sequence: [u64; 4];
}

/// All bytes were copied.
pub(crate) const COPIED: u32 = 1;
/// The thread has no word yet.
pub(crate) const UNKNOWN_THREAD: u32 = 2;

/// The board; set once, before any thread has a word.
pub(crate) static BOARD: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// Distance of a thread's `rseq_cs` from its thread pointer.
pub(crate) static RSEQ_CS: AtomicUsize = AtomicUsize::new(0);

// The word is set as the first thing in the sequence, so that it is set
// whenever a thread is inside, and the sequence is left by name (`rseq_cs`)
// before the word is cleared. An abort finds `rseq_cs` cleared by the kernel.
global_asm!(
    r#"
    .pushsection .data.rel.ro.bpftime_readable,"aw",@progbits
    .p2align 5
    .hidden bpftime_readable_sequence
    .globl bpftime_readable_sequence
bpftime_readable_sequence:
    .long 0, 0
    .quad 20f
    .quad 30f - 20f
    .quad 60f
    .popsection

    .pushsection .text.bpftime_readable,"ax",@progbits
    .globl bpftime_readable_copy
    .hidden bpftime_readable_copy
    .type bpftime_readable_copy,@function
    .p2align 6
bpftime_readable_copy:
    .cfi_startproc
    mov rax, qword ptr [rip + bpftime_thread@gottpoff]
    mov r9, qword ptr fs:[rax + 16]
    mov r10, qword ptr [rip + {rseq_cs}]
    test r9, r9
    jz 48f
    cmp qword ptr fs:[r10], 0
    jne 49f
    mov r8, qword ptr [rip + {board}]
    mov r11, qword ptr fs:[0]
    lea rax, [rip + bpftime_readable_sequence]
    mov qword ptr fs:[r10], rax
20:
    mov qword ptr [r9], r11
    mov rax, qword ptr [r8 + {active}]
    mov rcx, rsi
    shr rcx, {hint_shift}
    movzx ecx, cl
    movzx ecx, byte ptr [r8 + rcx + {hints}]
    shl ecx, 4
    test rax, rax
    jz 47f
    cmp rsi, qword ptr [rax + rcx + {start}]
    jb 47f
    mov rax, qword ptr [rax + rcx + {end}]
    sub rax, rsi
    jb 47f
    cmp rax, rdx
    jb 47f
    sub rdx, 8
    jb 23f
22:
    mov rax, qword ptr [rsi]
    mov qword ptr [rdi], rax
    add rsi, 8
    add rdi, 8
    sub rdx, 8
    jae 22b
23:
    test dl, 7
    jz 30f
    test dl, 4
    jz 24f
    mov eax, dword ptr [rsi]
    mov dword ptr [rdi], eax
    add rsi, 4
    add rdi, 4
24:
    test dl, 2
    jz 25f
    movzx eax, word ptr [rsi]
    mov word ptr [rdi], ax
    add rsi, 2
    add rdi, 2
25:
    test dl, 1
    jz 30f
    movzx eax, byte ptr [rsi]
    mov byte ptr [rdi], al
30:
    mov qword ptr fs:[r10], 0
    mov qword ptr [r9], 0
    mov eax, {copied}
    ret
47:
    mov qword ptr fs:[r10], 0
    mov qword ptr [r9], 0
    xor eax, eax
    ret
48:
    mov eax, {unknown}
    ret
49:
    xor eax, eax
    ret
    .byte 0x0f, 0xb9, 0x3d
    .long {signature}
60:
    mov qword ptr [r9], 0
    xor eax, eax
    ret
    .cfi_endproc
    .size bpftime_readable_copy, . - bpftime_readable_copy
    .popsection
"#,
    rseq_cs = sym RSEQ_CS,
    board = sym BOARD,
    active = const ACTIVE,
    hints = const HINTS,
    hint_shift = const HINT_SHIFT,
    start = const START,
    end = const END,
    copied = const COPIED,
    unknown = const UNKNOWN_THREAD,
    signature = const SIGNATURE,
);

/// See `bpftime_readable_copy`.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[inline(always)]
pub(crate) unsafe fn copy(to: *mut u8, from: u64, len: usize) -> u32 {
    // SAFETY: the caller's contract; what is read is in the table.
    unsafe { bpftime_readable_copy(to, from, len) }
}

/// What a thread's `rseq_cs` holds while it is in the sequence.
pub(crate) fn sequence() -> u64 {
    (&raw const bpftime_readable_sequence) as u64
}
