//! The code around a traced system call for which little is to be done: one
//! probe, whose callback needs the record only. It saves what that may change,
//! vector registers only where it may change them, and leaves everything else, as
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

// With S the program's stack pointer the frame lies at S - 272, below its red
// zone:
//
//     0 mark   8 block   16 rax   24 flags   28 DF   32 Entry or Exit
//     40 the address behind the system call   48 r11   56 r9 (at exit)
//     64 the record of eight words   128 rbp, where vector registers are saved
//
// The order of mark, guard and the look at the list is that of `guard`. At enter
// rcx and r11 are free, for the kernel is about to change them; at exit the
// program finds in them what the kernel leaves.
global_asm!(
    include_str!("../macros.s"),
    r#"
    // The address behind the system call is at holder + ip. On to 6 where all is
    // left to the thunk, with the frame there, and to 5 with the guard.
    .macro bpftime_syscalls_light_begin holder, ip, scratch, block
    lea rsp, [rsp - 272]
    .cfi_def_cfa rsp, 272
    mov [rsp + 16], rax
    .ifc \scratch, r11
    mov [rsp + 48], r11
    .endif
    mov \scratch, [\holder + \ip]
    mov [rsp + 40], \scratch
    .cfi_offset rip, 40 - 272
    bpftime_attach_save_flags
    bpftime_attach_block \block, {guard}, 6f
    mov qword ptr [rsp], {mark}
    mov [rsp + 8], \block
    mov [\block + {guard}], rsp
    .endm

    // Gets the list for a number: on to 4 where there is none, to 5 where it is
    // not light. `base` may be `list`.
    .macro bpftime_syscalls_light_list list, lists, number, base
    lea \base, [rip + \lists]
    mov \list, [\base + 8 * \number]
    test \list, \list
    jz 4f
    cmp qword ptr [\list + {code}], 0
    je 5f
    .endm

    // Arguments, in the order of the record.
    .macro bpftime_syscalls_light_save at, last
    mov [rsp + \at], rdi
    mov [rsp + \at + 8], rsi
    mov [rsp + \at + 16], rdx
    mov [rsp + \at + 24], r10
    mov [rsp + \at + 32], r8
    mov [rsp + \last], r9
    .endm

    .macro bpftime_syscalls_light_load at, last
    mov rdi, [rsp + \at]
    mov rsi, [rsp + \at + 8]
    mov rdx, [rsp + \at + 16]
    mov r10, [rsp + \at + 24]
    mov r8, [rsp + \at + 32]
    mov r9, [rsp + \last]
    .endm

    .macro bpftime_syscalls_light_run list
    mov rdx, [rsp + 8]
    mov esi, [\list + {hits}]
    inc qword ptr [rdx + rsi]
    lea rdi, [rsp + 64]
    mov rsi, [\list + {data}]
    mov [rsp + 64], rdi
    cmp dword ptr [\list + {needs_vectors}], 0
    jne 7f
    call [\list + {code}]
    8:
    .endm

    // The same for code that may change vector registers, as in `run.s`.
    .macro bpftime_syscalls_light_run_vectors list
    7:
    .cfi_def_cfa rsp, 272
    .cfi_offset rip, 40 - 272
    mov [rsp + 128], rbp
    mov rbp, rsp
    .cfi_def_cfa rbp, 272
    .cfi_offset rbp, 128 - 272
    mov rdx, rsi
    mov rsi, rbp
    lodsb
    sub esi, ebp
    mov [rbp + 28], esi
    jns 9f
    cld
    9:
    mov rsi, rdx
    bpftime_attach_save_vectors
    call [\list + {code}]
    bpftime_attach_restore_vectors
    cmp dword ptr [rbp + 28], 0
    jns 9f
    std
    9:
    mov rsp, rbp
    .cfi_def_cfa rsp, 272
    mov rbp, [rsp + 128]
    .cfi_restore rbp
    jmp 8b
    .endm

    .macro bpftime_syscalls_light_unguard
    mov rax, [rsp + 8]
    mov qword ptr [rax + {guard}], 0
    .endm

    .macro bpftime_syscalls_light_restore
    bpftime_attach_restore_flags
    mov rax, [rsp + 16]
    .endm

    .macro bpftime_syscalls_light_end
    lea rsp, [rsp + 272]
    .cfi_def_cfa rsp, 0
    .endm

    .pushsection .text.bpftime_syscalls_light,"ax",@progbits
    bpftime_syscalls_function bpftime_syscalls_enter_light, 6
    bpftime_syscalls_address_by_entry
    bpftime_syscalls_light_begin r11, {continuation}, rcx, rax
    movsxd rcx, dword ptr [rsp + 16]
    cmp rcx, {numbers}
    jae 5f
    cmp rcx, {sigreturn}
    je 5f
    mov [rsp + 72], rcx
    cmp qword ptr [r11 + {deep}], 0
    jne 3f
1:
    bpftime_syscalls_light_list rcx, {enter}, rcx, rax
    mov [rsp + 32], r11
    bpftime_syscalls_light_save 80, 120
    bpftime_syscalls_light_run rcx
    mov r11, [rsp + 32]
    bpftime_syscalls_light_load 80, 120
4:
    mov rcx, [r11 + {plain}]
    bpftime_syscalls_light_unguard
    bpftime_syscalls_light_restore
    .cfi_remember_state
    bpftime_syscalls_address_by_entry
    bpftime_syscalls_light_end
    jmp rcx
    .cfi_restore_state
3:
    lea rax, [rip + {exit}]
    cmp qword ptr [rax + 8 * rcx], 0
    je 1b
5:
    bpftime_syscalls_light_unguard
6:
    bpftime_syscalls_light_restore
    bpftime_syscalls_address_by_entry
    bpftime_syscalls_light_end
    jmp bpftime_syscalls_enter
    bpftime_syscalls_light_run_vectors rcx
    bpftime_attach_end bpftime_syscalls_enter_light

    bpftime_syscalls_function bpftime_syscalls_exit_light, 6
    bpftime_syscalls_address_by_exit
    bpftime_syscalls_light_begin rcx, {exit_continuation}, r11, r11
    mov rax, [rcx + {exit_nr}]
    cmp rax, {numbers}
    jae 5f
    mov [rsp + 72], rax
    bpftime_syscalls_light_list r11, {exit}, rax, r11
    bpftime_syscalls_light_save 88, 56
    mov rax, [rsp + 16]
    mov [rsp + 80], rax
    cmp dword ptr [r11 + {raw}], 0
    je 1f
    mov [rsp + 72], rax
1:
    bpftime_syscalls_light_run r11
    bpftime_syscalls_light_load 88, 56
4:
    bpftime_syscalls_light_unguard
    bpftime_syscalls_light_restore
    mov r11, [rsp + 48]
    mov rcx, [rsp + 40]
    .cfi_remember_state
    .cfi_register rip, rcx
    bpftime_syscalls_light_end
    jmp rcx
    .cfi_restore_state
5:
    bpftime_syscalls_light_unguard
6:
    bpftime_syscalls_light_restore
    mov r11, [rsp + 48]
    bpftime_syscalls_address_by_exit
    bpftime_syscalls_light_end
    jmp bpftime_syscalls_exit
    bpftime_syscalls_light_run_vectors r11
    bpftime_attach_end bpftime_syscalls_exit_light
    .popsection
"#,
    include_str!("../macros_end.s"),
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
    needs_vectors = const LIGHT + offset_of!(Light, needs_vectors),
    data = const LIGHT + offset_of!(Light, data),
);
