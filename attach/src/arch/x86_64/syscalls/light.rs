//! The code around a traced system call for which little is to be done: one
//! probe, whose callback needs the record only and leaves vector registers
//! alone. It saves what such code may change, and leaves everything else, as
//! well as threads without a block and hits inside hits, to `thunk`. It does not
//! allocate, lock or call libc.

use core::arch::global_asm;
use core::mem::offset_of;

use crate::guard::MARK;
use crate::shadow::offsets as block;
use crate::syscalls::hit::{ENTER, EXIT, Entry, List, NUMBERS};
use crate::syscalls::light::Light;

use super::pool::Exit;

unsafe extern "C" {
    fn bpftime_syscalls_enter_light();
    fn bpftime_syscalls_exit_light();
}

/// Before a traced system call: `Entry` in r11, all else as at the instruction.
pub(crate) fn enter_address() -> u64 {
    bpftime_syscalls_enter_light as *const () as u64
}

/// Behind a system call of a plain stub with exit probes: `Exit` in rcx.
pub(crate) fn exit_address() -> u64 {
    bpftime_syscalls_exit_light as *const () as u64
}

const LIGHT: usize = offset_of!(List, light);

// With S the program's stack pointer the frame lies at S - 256, below its red
// zone:
//
//     0 mark   8 block   16 rax   24 flags   32 Entry or Exit
//     40 the address behind the system call   48 r11   56 r9 (at exit)
//     64 the record of eight words
//
// The order of mark, guard and the look at the list is that of `guard`. At enter
// rcx and r11 are free, for the kernel is about to change them; at exit the
// program finds in them what the kernel leaves.
global_asm!(
    r#"
    .macro bpftime_syscalls_light_flags
    mov eax, [rsp + 24]
    add al, 127
    sahf
    mov rax, [rsp + 16]
    .endm

    .pushsection .text.bpftime_syscalls_light,"ax",@progbits
    .globl bpftime_syscalls_enter_light
    .hidden bpftime_syscalls_enter_light
    .type bpftime_syscalls_enter_light,@function
    .p2align 6
bpftime_syscalls_enter_light:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa rsp, 0
    .cfi_escape 0x16, 0x10, 0x03, 0x7b, 0x00, 0x06
    lea rsp, [rsp - 256]
    .cfi_def_cfa rsp, 256
    mov [rsp + 16], rax
    mov rcx, [r11 + {continuation}]
    mov [rsp + 40], rcx
    .cfi_offset rip, -216
    lahf
    seto al
    mov [rsp + 24], eax
    mov rax, bpftime_attach_thread@gottpoff[rip]
    mov rax, fs:[rax]
    test rax, rax
    jz 6f
    cmp qword ptr [rax + {guard}], 0
    jne 6f
    mov qword ptr [rsp], {mark}
    mov [rsp + 8], rax
    mov [rax + {guard}], rsp
    movsxd rcx, dword ptr [rsp + 16]
    cmp rcx, {numbers}
    jae 5f
    cmp rcx, {sigreturn}
    je 5f
    mov [rsp + 72], rcx
    cmp qword ptr [r11 + {deep}], 0
    jne 3f
1:
    lea rax, [rip + {enter}]
    mov rcx, [rax + 8 * rcx]
    test rcx, rcx
    jz 4f
    cmp qword ptr [rcx + {code}], 0
    je 5f
    mov [rsp + 32], r11
    mov [rsp + 80], rdi
    mov [rsp + 88], rsi
    mov [rsp + 96], rdx
    mov [rsp + 104], r10
    mov [rsp + 112], r8
    mov [rsp + 120], r9
    mov rax, [rsp + 8]
    mov edx, [rcx + {hits}]
    inc qword ptr [rax + rdx]
    lea rdi, [rsp + 64]
    xor esi, esi
    mov [rsp + 64], rdi
    call [rcx + {code}]
    mov r11, [rsp + 32]
    mov rdi, [rsp + 80]
    mov rsi, [rsp + 88]
    mov rdx, [rsp + 96]
    mov r10, [rsp + 104]
    mov r8, [rsp + 112]
    mov r9, [rsp + 120]
4:
    mov rcx, [r11 + {plain}]
    mov rax, [rsp + 8]
    mov qword ptr [rax + {guard}], 0
    bpftime_syscalls_light_flags
    .cfi_remember_state
    .cfi_escape 0x16, 0x10, 0x03, 0x7b, 0x00, 0x06
    lea rsp, [rsp + 256]
    .cfi_def_cfa rsp, 0
    jmp rcx
    .cfi_restore_state
3:
    lea rax, [rip + {exit}]
    cmp qword ptr [rax + 8 * rcx], 0
    je 1b
5:
    mov rax, [rsp + 8]
    mov qword ptr [rax + {guard}], 0
6:
    bpftime_syscalls_light_flags
    .cfi_escape 0x16, 0x10, 0x03, 0x7b, 0x00, 0x06
    lea rsp, [rsp + 256]
    .cfi_def_cfa rsp, 0
    jmp bpftime_syscalls_enter
    .cfi_endproc
    .size bpftime_syscalls_enter_light, . - bpftime_syscalls_enter_light

    .globl bpftime_syscalls_exit_light
    .hidden bpftime_syscalls_exit_light
    .type bpftime_syscalls_exit_light,@function
    .p2align 6
bpftime_syscalls_exit_light:
    .cfi_startproc
    .cfi_signal_frame
    .cfi_def_cfa rsp, 0
    .cfi_escape 0x16, 0x10, 0x03, 0x72, 0x08, 0x06
    lea rsp, [rsp - 256]
    .cfi_def_cfa rsp, 256
    mov [rsp + 16], rax
    mov [rsp + 48], r11
    mov r11, [rcx + {exit_continuation}]
    mov [rsp + 40], r11
    .cfi_offset rip, -216
    lahf
    seto al
    mov [rsp + 24], eax
    mov r11, bpftime_attach_thread@gottpoff[rip]
    mov r11, fs:[r11]
    test r11, r11
    jz 6f
    cmp qword ptr [r11 + {guard}], 0
    jne 6f
    mov qword ptr [rsp], {mark}
    mov [rsp + 8], r11
    mov [r11 + {guard}], rsp
    mov rax, [rcx + {exit_nr}]
    cmp rax, {numbers}
    jae 5f
    mov [rsp + 72], rax
    lea r11, [rip + {exit}]
    mov r11, [r11 + 8 * rax]
    test r11, r11
    jz 4f
    cmp qword ptr [r11 + {code}], 0
    je 5f
    mov [rsp + 88], rdi
    mov [rsp + 96], rsi
    mov [rsp + 104], rdx
    mov [rsp + 112], r10
    mov [rsp + 120], r8
    mov [rsp + 56], r9
    mov rax, [rsp + 16]
    mov [rsp + 80], rax
    cmp dword ptr [r11 + {raw}], 0
    je 1f
    mov [rsp + 72], rax
1:
    mov rdx, [rsp + 8]
    mov esi, [r11 + {hits}]
    inc qword ptr [rdx + rsi]
    lea rdi, [rsp + 64]
    xor esi, esi
    mov [rsp + 64], rdi
    call [r11 + {code}]
    mov rdi, [rsp + 88]
    mov rsi, [rsp + 96]
    mov rdx, [rsp + 104]
    mov r10, [rsp + 112]
    mov r8, [rsp + 120]
    mov r9, [rsp + 56]
4:
    mov rcx, [rsp + 8]
    mov qword ptr [rcx + {guard}], 0
    bpftime_syscalls_light_flags
    mov r11, [rsp + 48]
    mov rcx, [rsp + 40]
    .cfi_remember_state
    .cfi_register rip, rcx
    lea rsp, [rsp + 256]
    .cfi_def_cfa rsp, 0
    jmp rcx
    .cfi_restore_state
5:
    mov r11, [rsp + 8]
    mov qword ptr [r11 + {guard}], 0
6:
    bpftime_syscalls_light_flags
    mov r11, [rsp + 48]
    .cfi_escape 0x16, 0x10, 0x03, 0x72, 0x08, 0x06
    lea rsp, [rsp + 256]
    .cfi_def_cfa rsp, 0
    jmp bpftime_syscalls_exit
    .cfi_endproc
    .size bpftime_syscalls_exit_light, . - bpftime_syscalls_exit_light
    .popsection
    .purgem bpftime_syscalls_light_flags
"#,
    continuation = const offset_of!(Entry, continuation),
    plain = const offset_of!(Entry, plain),
    deep = const offset_of!(Entry, deep),
    exit_continuation = const offset_of!(Exit, continuation),
    exit_nr = const offset_of!(Exit, nr),
    guard = const block::GUARD,
    mark = const MARK,
    numbers = const NUMBERS,
    sigreturn = const libc::SYS_rt_sigreturn,
    enter = sym ENTER,
    exit = sym EXIT,
    code = const LIGHT + offset_of!(Light, code),
    hits = const LIGHT + offset_of!(Light, hits),
    raw = const LIGHT + offset_of!(Light, is_raw),
);
