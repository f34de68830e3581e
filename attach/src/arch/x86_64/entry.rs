//! What every trampoline calls: saves the target's registers as `PtRegs`, runs
//! the probes, restores. It does not allocate, lock or call libc.

use core::arch::global_asm;

use crate::hit::{OVERRIDDEN, THROUGH_STUB, on_entry};

/// Bytes that a trampoline moves the stack pointer down before it calls
/// [`bpftime_attach_entry`]: the red zone and the word it then jumps through.
pub(crate) const SKIPPED: i32 = 136;

/// From the return address in the trampoline back to the site's address.
pub(crate) const SITE_BEFORE_RETURN: i32 = 22;
/// From the return address to the way that only runs the displaced code.
pub(crate) const RESTORE_AFTER_RETURN: i32 = 3;
/// From the return address to the displaced code.
pub(crate) const DISPLACED_AFTER_RETURN: i32 = 11;

unsafe extern "C" {
    /// Reached by `call` from a trampoline with every register live.
    fn bpftime_attach_entry();
}

/// Where the thunk lies.
pub(crate) fn address() -> u64 {
    bpftime_attach_entry as *const () as u64
}

// With S the stack pointer at the probe, on entry rsp = S - 144 and [rsp] is
// the return address r in the trampoline. rbp becomes the `PtRegs`, S - 312.
// The call-frame information says that we are called where the probed function
// is called (CFA = S + 8), so that a signal in here can be unwound.
//
// [rbp + 176] is the word at S - 136 through which the trampoline goes on:
// r + 3 (restore rsp, displaced code) or the return stub, which finds the
// displaced code's address at S - 8, dead at the start of a function. Where
// the function is not to run, a plain return stands for either.
//
// popfq costs twenty cycles: status flags come back by add and sahf instead,
// and DF, the only other flag that code in between needs, by std.
global_asm!(
    r#"
    .pushsection .text.bpftime_attach_entry,"ax",@progbits
    .globl bpftime_attach_entry
    .hidden bpftime_attach_entry
    .type bpftime_attach_entry,@function
    .p2align 6
bpftime_attach_entry:
    .cfi_startproc
    .cfi_def_cfa rsp, 152
    push 0x2b
    .cfi_adjust_cfa_offset 8
    push rax
    .cfi_adjust_cfa_offset 8
    pushfq
    .cfi_adjust_cfa_offset 8
    push 0x33
    .cfi_adjust_cfa_offset 8
    push rax
    .cfi_adjust_cfa_offset 8
    push -1
    .cfi_adjust_cfa_offset 8
    push rdi
    .cfi_adjust_cfa_offset 8
    push rsi
    .cfi_adjust_cfa_offset 8
    push rdx
    .cfi_adjust_cfa_offset 8
    push rcx
    .cfi_adjust_cfa_offset 8
    push rax
    .cfi_adjust_cfa_offset 8
    push r8
    .cfi_adjust_cfa_offset 8
    push r9
    .cfi_adjust_cfa_offset 8
    push r10
    .cfi_adjust_cfa_offset 8
    push r11
    .cfi_adjust_cfa_offset 8
    push rbx
    .cfi_adjust_cfa_offset 8
    push rbp
    .cfi_adjust_cfa_offset 8
    push r12
    .cfi_adjust_cfa_offset 8
    push r13
    .cfi_adjust_cfa_offset 8
    push r14
    .cfi_adjust_cfa_offset 8
    push r15
    .cfi_adjust_cfa_offset 8
    .cfi_offset rbp, -288
    .cfi_offset rbx, -280
    mov rbp, rsp
    .cfi_def_cfa rbp, 320
    mov rbx, [rbp + 168]
    mov rsi, [rbx - {site_before_return}]
    mov rax, [rsi]
    lea rcx, [rbp + 312]
    mov [rbp + 128], rax
    mov [rbp + 152], rcx
    lea rax, [rbx + {restore_after_return}]
    mov [rbp + 176], rax
    test byte ptr [rbp + 145], 4
    jz 2f
    cld
2:
    sub rsp, 256
    and rsp, -16
    movaps [rsp], xmm0
    movaps [rsp + 16], xmm1
    movaps [rsp + 32], xmm2
    movaps [rsp + 48], xmm3
    movaps [rsp + 64], xmm4
    movaps [rsp + 80], xmm5
    movaps [rsp + 96], xmm6
    movaps [rsp + 112], xmm7
    movaps [rsp + 128], xmm8
    movaps [rsp + 144], xmm9
    movaps [rsp + 160], xmm10
    movaps [rsp + 176], xmm11
    movaps [rsp + 192], xmm12
    movaps [rsp + 208], xmm13
    movaps [rsp + 224], xmm14
    movaps [rsp + 240], xmm15
    mov rdi, rbp
    call {on_entry}
    test eax, eax
    jz 3f
    lea rcx, [rbx + {displaced_after_return}]
    test al, {overridden}
    jz 2f
    mov rcx, [rbp + 80]
    mov [rsp], rcx
    mov qword ptr [rsp + 8], 0
    lea rcx, [rip + bpftime_attach_overridden]
    mov [rbp + 176], rcx
    lea rcx, [rip + bpftime_attach_overridden_return]
    test al, {through_stub}
    jz 3f
2:
    mov [rbp + 304], rcx
    lea rcx, [rip + bpftime_attach_return_call]
    mov [rbp + 176], rcx
3:
    movaps xmm0, [rsp]
    movaps xmm1, [rsp + 16]
    movaps xmm2, [rsp + 32]
    movaps xmm3, [rsp + 48]
    movaps xmm4, [rsp + 64]
    movaps xmm5, [rsp + 80]
    movaps xmm6, [rsp + 96]
    movaps xmm7, [rsp + 112]
    movaps xmm8, [rsp + 128]
    movaps xmm9, [rsp + 144]
    movaps xmm10, [rsp + 160]
    movaps xmm11, [rsp + 176]
    movaps xmm12, [rsp + 192]
    movaps xmm13, [rsp + 208]
    movaps xmm14, [rsp + 224]
    movaps xmm15, [rsp + 240]
    mov rcx, [rbp + 144]
    test ch, 4
    jz 4f
    std
4:
    mov eax, ecx
    shr eax, 11
    and eax, 1
    mov ah, cl
    add al, 127
    sahf
    mov rsp, rbp
    .cfi_def_cfa rsp, 320
    pop r15
    .cfi_adjust_cfa_offset -8
    pop r14
    .cfi_adjust_cfa_offset -8
    pop r13
    .cfi_adjust_cfa_offset -8
    pop r12
    .cfi_adjust_cfa_offset -8
    pop rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbp
    pop rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbx
    pop r11
    .cfi_adjust_cfa_offset -8
    pop r10
    .cfi_adjust_cfa_offset -8
    pop r9
    .cfi_adjust_cfa_offset -8
    pop r8
    .cfi_adjust_cfa_offset -8
    pop rax
    .cfi_adjust_cfa_offset -8
    pop rcx
    .cfi_adjust_cfa_offset -8
    pop rdx
    .cfi_adjust_cfa_offset -8
    pop rsi
    .cfi_adjust_cfa_offset -8
    pop rdi
    .cfi_adjust_cfa_offset -8
    lea rsp, [rsp + 48]
    .cfi_adjust_cfa_offset -48
    ret
    .cfi_endproc
    .size bpftime_attach_entry, . - bpftime_attach_entry

    .type bpftime_attach_overridden,@function
    .p2align 4
bpftime_attach_overridden:
    .cfi_startproc
    .cfi_def_cfa rsp, 144
    lea rsp, [rsp + 136]
    .cfi_def_cfa rsp, 8
bpftime_attach_overridden_return:
    ret
    .cfi_endproc
    .size bpftime_attach_overridden, . - bpftime_attach_overridden
    .popsection
"#,
    site_before_return = const SITE_BEFORE_RETURN,
    restore_after_return = const RESTORE_AFTER_RETURN,
    displaced_after_return = const DISPLACED_AFTER_RETURN,
    on_entry = sym on_entry,
    through_stub = const THROUGH_STUB,
    overridden = const OVERRIDDEN,
);
