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
    include_str!("../macros.s"),
    r#"
    .macro bpftime_syscalls_save base, ip, nr, result
    lea rsp, [rsp - 128]
    .cfi_adjust_cfa_offset 128
    bpftime_attach_save_regs 296, "qword ptr [\base + \ip]", \nr, "qword ptr [\base + \ip]", \result
    .cfi_offset rip, 128 - 296
    mov rsi, \base
    lea rax, [rbp + 296]
    mov rcx, [rbp + 144]
    mov [rbp + 152], rax
    mov [rbp + 48], rcx
    bpftime_attach_before_call
    .endm

    .macro bpftime_syscalls_restore
    bpftime_attach_restore_regs 296
    lea rsp, [rsp + 176]
    .cfi_adjust_cfa_offset -176
    jmp rcx
    .endm

    .pushsection .text.bpftime_syscalls,"ax",@progbits
    bpftime_syscalls_function bpftime_syscalls_enter, 6
    bpftime_syscalls_address_by_entry
    bpftime_syscalls_save r11, 0, rax, -38
    call {on_enter}
    bpftime_syscalls_restore
    bpftime_attach_end bpftime_syscalls_enter

    bpftime_attach_function bpftime_syscalls_exit_deep, 6
    .cfi_signal_frame
    .cfi_def_cfa rsp, {depth}
    bpftime_syscalls_address_by_exit
    mov r11, [rsp]
    lea rsp, [rsp + {depth}]
    .cfi_def_cfa rsp, 0
    jmp 5f
    bpftime_attach_end bpftime_syscalls_exit_deep

    bpftime_syscalls_function bpftime_syscalls_exit, 4
    bpftime_syscalls_address_by_exit
    mov r11, [rcx + 16]
5:
    bpftime_syscalls_save rcx, 8, r11, rax
    call {on_exit}
    bpftime_syscalls_restore
    bpftime_attach_end bpftime_syscalls_exit

    bpftime_syscalls_function bpftime_syscalls_pass, 4
    bpftime_syscalls_address_by_exit
    mov rcx, [rcx + 8]
    .cfi_register rip, rcx
    jmp rcx
    bpftime_attach_end bpftime_syscalls_pass

    bpftime_syscalls_function bpftime_syscalls_descend, 4
    .cfi_undefined rip
    lea rsp, [rsp - {depth}]
    .cfi_def_cfa rsp, {depth}
    mov [rsp], rax
    jmp r11
    bpftime_attach_end bpftime_syscalls_descend
    .popsection
"#,
    include_str!("../macros_end.s"),
    on_enter = sym on_enter,
    on_exit = sym on_exit,
    depth = const DEPTH,
);
