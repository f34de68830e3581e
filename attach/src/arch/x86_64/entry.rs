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
global_asm!(
    include_str!("macros.s"),
    r#"
    .pushsection .text.bpftime_attach_entry,"ax",@progbits
    bpftime_attach_function bpftime_attach_entry, 6
    .cfi_def_cfa rsp, 152
    bpftime_attach_save_regs 320, rax, -1, rcx, rax
    mov rbx, [rbp + 168]
    mov rsi, [rbx - {site_before_return}]
    mov rax, [rsi]
    lea rcx, [rbp + 312]
    mov [rbp + 128], rax
    mov [rbp + 152], rcx
    lea rax, [rbx + {restore_after_return}]
    mov [rbp + 176], rax
    bpftime_attach_before_call
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
    bpftime_attach_restore_regs 320
    lea rsp, [rsp + 48]
    .cfi_adjust_cfa_offset -48
    ret
    bpftime_attach_end bpftime_attach_entry

    .type bpftime_attach_overridden,@function
    .p2align 4
bpftime_attach_overridden:
    .cfi_startproc
    .cfi_def_cfa rsp, 144
    lea rsp, [rsp + 136]
    .cfi_def_cfa rsp, 8
bpftime_attach_overridden_return:
    ret
    bpftime_attach_end bpftime_attach_overridden
    .popsection
"#,
    include_str!("macros_end.s"),
    site_before_return = const SITE_BEFORE_RETURN,
    restore_after_return = const RESTORE_AFTER_RETURN,
    displaced_after_return = const DISPLACED_AFTER_RETURN,
    on_entry = sym on_entry,
    through_stub = const THROUGH_STUB,
    overridden = const OVERRIDDEN,
);
