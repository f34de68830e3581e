//! Calls of functions that may change vector registers from functions that may
//! not. Called from trampolines.

use core::arch::global_asm;

/// What is called so.
pub(crate) type Function = unsafe extern "C" fn(u64, u64, u64, u64, u64) -> u64;

unsafe extern "C" {
    /// Calls `function` with the first five, on an aligned stack and with DF
    /// clear; vector registers and DF are as they were when it returns.
    pub(crate) fn bpftime_runtime_aside(
        a: u64,
        b: u64,
        c: u64,
        d: u64,
        e: u64,
        function: Function,
    ) -> u64;
}

global_asm!(
    r#"
    .pushsection .text.bpftime_runtime_aside,"ax",@progbits
    .globl bpftime_runtime_aside
    .hidden bpftime_runtime_aside
    .type bpftime_runtime_aside,@function
    .p2align 4
bpftime_runtime_aside:
    .cfi_startproc
    push rbp
    .cfi_def_cfa_offset 16
    .cfi_offset rbp, -16
    mov rbp, rsp
    .cfi_def_cfa_register rbp
    pushfq
    cld
    sub rsp, 256
    and rsp, -16
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps [rsp + 16 * \n], xmm\n
    .endr
    call r9
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps xmm\n, [rsp + 16 * \n]
    .endr
    test byte ptr [rbp - 7], 4
    jz 2f
    std
2:
    leave
    .cfi_def_cfa rsp, 8
    .cfi_restore rbp
    ret
    .cfi_endproc
    .size bpftime_runtime_aside, . - bpftime_runtime_aside
    .popsection
"#
);
