//! A C function as unfriendly as the convention allows.

use std::arch::naked_asm;

use bpftime_vm::link::Run;

/// Leaves nonsense in every register that a C function may change. Returns
/// 99, or more if the stack pointer was not a multiple of 16 at the call.
#[unsafe(naked)]
pub unsafe extern "C" fn clobber(_: u64, _: u64, _: u64, _: u64, _: u64, _: *mut Run) -> u64 {
    naked_asm!(
        "lea rax, [rsp + 8]",
        "and eax, 15",
        "add eax, 99",
        "mov rdi, -1",
        "mov rsi, rdi",
        "mov rdx, rdi",
        "mov rcx, rdi",
        "mov r8, rdi",
        "mov r9, rdi",
        "mov r10, rdi",
        "mov r11, rdi",
        "movq xmm0, rdi",
        "mov [rsp - 8], rdi",
        "mov [rsp - 64], rdi",
        "mov [rsp - 128], rdi",
        "ret",
    )
}
