//! The code around a traced system call: it saves the program's registers as
//! the kernel's `pt_regs`, runs the probes, restores, and goes on. Everything
//! is jumped to. It does not allocate, lock or call libc.
//!
//! A system call destroys rcx and r11 and nothing else, flags included: these
//! two are free before it, and what the kernel leaves in them (the address
//! behind it, the flags) is what the program finds.

use core::arch::global_asm;

use crate::syscalls::hit::{on_enter, on_exit};

/// Bytes that a deep stub's stack pointer is below the program's.
pub(crate) const DEPTH: u64 = 144;

unsafe extern "C" {
    fn bpftime_syscalls_pass();
    fn bpftime_syscalls_exit_deep();
    fn bpftime_syscalls_descend();
}

/// Behind a system call without exit probes: `Exit` in rcx.
pub(crate) fn pass_address() -> u64 {
    bpftime_syscalls_pass as *const () as u64
}

/// Behind a system call of a deep stub: `Exit` in rcx.
pub(crate) fn exit_deep_address() -> u64 {
    bpftime_syscalls_exit_deep as *const () as u64
}

/// Goes down to a deep stub, whose address is in r11.
pub(crate) fn descend_address() -> u64 {
    bpftime_syscalls_descend as *const () as u64
}

// With S the program's stack pointer, the pt_regs lie at S - 296, below its
// red zone. The unwind rules say that we are a signal frame of the program,
// stopped right behind its system call: CFA = S, and the address is found
// through r11 (`Entry` + 0) or rcx (`Exit` + 8), then in the pt_regs.
global_asm!(
    r#"
    .macro bpftime_syscalls_restore
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
    .cfi_def_cfa rsp, 296
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
    lea rsp, [rsp + 176]
    .cfi_adjust_cfa_offset -176
    jmp rcx
    .endm

    .macro bpftime_syscalls_push what
    push \what
    .cfi_adjust_cfa_offset 8
    .endm

    // From the second word of pt_regs above di (\ip is a memory operand that
    // holds the address behind the system call).
    .macro bpftime_syscalls_save base, ip, nr, result
    lea rsp, [rsp - 128]
    .cfi_adjust_cfa_offset 128
    bpftime_syscalls_push 0x2b
    bpftime_syscalls_push rax
    pushfq
    .cfi_adjust_cfa_offset 8
    bpftime_syscalls_push 0x33
    push qword ptr [\base + \ip]
    .cfi_adjust_cfa_offset 8
    .cfi_offset rip, -168
    bpftime_syscalls_push \nr
    bpftime_syscalls_push rdi
    bpftime_syscalls_push rsi
    bpftime_syscalls_push rdx
    push qword ptr [\base + \ip]
    .cfi_adjust_cfa_offset 8
    bpftime_syscalls_push \result
    bpftime_syscalls_push r8
    bpftime_syscalls_push r9
    bpftime_syscalls_push r10
    bpftime_syscalls_push r11
    bpftime_syscalls_push rbx
    bpftime_syscalls_push rbp
    bpftime_syscalls_push r12
    bpftime_syscalls_push r13
    bpftime_syscalls_push r14
    bpftime_syscalls_push r15
    .cfi_offset rbx, -256
    .cfi_offset rbp, -264
    mov rbp, rsp
    .cfi_def_cfa rbp, 296
    mov rsi, \base
    lea rax, [rbp + 296]
    mov rcx, [rbp + 144]
    mov [rbp + 152], rax
    mov [rbp + 48], rcx
    test ch, 4
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
    .endm

    .pushsection .text.bpftime_syscalls,"ax",@progbits
    .globl bpftime_syscalls_enter
    .hidden bpftime_syscalls_enter
    .type bpftime_syscalls_enter,@function
    .p2align 6
bpftime_syscalls_enter:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa rsp, 0
    .cfi_escape 0x16, 0x10, 0x03, 0x7b, 0x00, 0x06
    bpftime_syscalls_save r11, 0, rax, -38
    call {on_enter}
    bpftime_syscalls_restore
    .cfi_endproc
    .size bpftime_syscalls_enter, . - bpftime_syscalls_enter

    .globl bpftime_syscalls_exit_deep
    .hidden bpftime_syscalls_exit_deep
    .type bpftime_syscalls_exit_deep,@function
    .p2align 6
bpftime_syscalls_exit_deep:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa rsp, {depth}
    .cfi_escape 0x16, 0x10, 0x03, 0x72, 0x08, 0x06
    mov r11, [rsp]
    lea rsp, [rsp + {depth}]
    .cfi_def_cfa rsp, 0
    jmp 5f
    .cfi_endproc
    .size bpftime_syscalls_exit_deep, . - bpftime_syscalls_exit_deep

    .globl bpftime_syscalls_exit
    .hidden bpftime_syscalls_exit
    .type bpftime_syscalls_exit,@function
    .p2align 4
bpftime_syscalls_exit:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa rsp, 0
    .cfi_escape 0x16, 0x10, 0x03, 0x72, 0x08, 0x06
    mov r11, [rcx + 16]
5:
    bpftime_syscalls_save rcx, 8, r11, rax
    call {on_exit}
    bpftime_syscalls_restore
    .cfi_endproc
    .size bpftime_syscalls_exit, . - bpftime_syscalls_exit

    .globl bpftime_syscalls_pass
    .hidden bpftime_syscalls_pass
    .type bpftime_syscalls_pass,@function
    .p2align 4
bpftime_syscalls_pass:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa rsp, 0
    .cfi_escape 0x16, 0x10, 0x03, 0x72, 0x08, 0x06
    mov rcx, [rcx + 8]
    .cfi_register rip, rcx
    jmp rcx
    .cfi_endproc
    .size bpftime_syscalls_pass, . - bpftime_syscalls_pass

    .globl bpftime_syscalls_descend
    .hidden bpftime_syscalls_descend
    .type bpftime_syscalls_descend,@function
    .p2align 4
bpftime_syscalls_descend:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa rsp, 0
    .cfi_undefined rip
    lea rsp, [rsp - {depth}]
    .cfi_def_cfa rsp, {depth}
    mov [rsp], rax
    jmp r11
    .cfi_endproc
    .size bpftime_syscalls_descend, . - bpftime_syscalls_descend
    .popsection
"#,
    on_enter = sym on_enter,
    on_exit = sym on_exit,
    depth = const DEPTH,
);
