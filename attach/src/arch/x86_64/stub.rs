//! The static return stub: every hijacked return address is the label in here,
//! and its call-frame information leads unwinders to the true one. It is part
//! of the library, so it stays valid after a detach.

use core::arch::{asm, global_asm};
use core::ffi::c_void;

use super::direct::SLOW;
use crate::guard::MARK;
use crate::hit::on_return;
use crate::probe::Needs;
use crate::shadow::offsets as block;
use crate::site::offsets;

/// The stub lies in one block of this size, by which unwind information and
/// code recognise its addresses.
pub(crate) const STUB_BYTES: u64 = 2048;

unsafe extern "C" {
    /// What a hijacked function returns to.
    fn bpftime_attach_return_label();
    /// What trampolines jump to.
    fn bpftime_attach_return_call();
    /// Head of the list of shadow stacks, zeroed: here so that unwind
    /// information can name it relative to the stub.
    static mut bpftime_attach_shadows: *mut c_void;
}

/// Where the head of the list of shadow stacks is kept.
pub(crate) fn shadows() -> *mut *mut c_void {
    &raw mut bpftime_attach_shadows
}

/// The address that stands in the place of a hijacked return address.
pub(crate) fn label() -> u64 {
    bpftime_attach_return_label as *const () as u64
}

/// Where the stub is entered, as said below.
pub(crate) fn call() -> u64 {
    bpftime_attach_return_call as *const () as u64
}

/// Ends the process with SIGILL: a hijacked function returned on a stack that
/// we never saw.
pub(crate) fn lost() -> ! {
    // SAFETY: does not return.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

// The trampoline jumps to `..._call` with rsp = S - 136 (S as in `entry`). It
// drops the return address and calls the displaced code, whose address is at
// S - 8: the call writes the label where the return address was, so that call
// and return stay paired for the processor's return predictor.
//
// At the label rsp = S + 8 and the slot at S is ours again; whoever pops the
// entry writes the true address there, before. Where little is needed that is
// done here (frame and macros are those of `direct`), else by on_return. The
// entry is on top when we begin; if it is not afterwards, its probes have run
// and on_return finds none left to run.
//
// The unwind rule: the frame is a signal frame (its caller has the same CFA,
// which unwinders tell apart by that flag, and look the caller's address up as
// it is, hence the 1 taken off). Return address, as a DWARF expression:
//
//     page = pc & -2048; list = page + *page           -> head of the shadow stacks
//     for (th = *list; th; th = th->next)              keys fall from here to the top,
//         e = first of th->sorted .. th->top with key <= cfa     by bisection
//         if (e < th->top && e->key == cfa && (e->ra & -2048) != page) return e->ra - 1
//     for (th = *list; th; th = th->next)              the newest of all others
//         for (e = th->top; e != th->base; )
//             if ((--e)->key == cfa && (e->ra & -2048) != page) return e->ra - 1
//     ra = *(cfa - 8); return (ra & -2048) != page ? ra - 1 : 0
//
// Without bisection an exception through n frames takes n * n steps.
// libgcc refuses a DW_OP_pick of the bottom element, hence the CFA twice.
global_asm!(
    include_str!("macros.s"),
    include_str!("run.s"),
    r#"
    .pushsection .data.bpftime_attach,"aw",@progbits
    .globl bpftime_attach_shadows
    .hidden bpftime_attach_shadows
    .type bpftime_attach_shadows,@object
    .size bpftime_attach_shadows,8
    .p2align 3
bpftime_attach_shadows:
    .quad 0
    .popsection

    .pushsection .text.bpftime_attach_return,"ax",@progbits
    .p2align 11
bpftime_attach_return_page:
    .quad bpftime_attach_shadows - .
    bpftime_attach_function bpftime_attach_return_call, 4
    .cfi_signal_frame
    .cfi_def_cfa rsp, 144
    .cfi_escape 0x16, 0x10, 0xd1, 0x01
    .cfi_escape 0x12, 0x80, 0x00, 0x0b, 0x00, 0xf8, 0x1a, 0x12, 0x06, 0x22, 0x06
    .cfi_escape 0x12, 0x28, 0x03, 0x00, 0x2f, 0x5f, 0x00
    .cfi_escape 0x12, 0x23, 0x38, 0x06, 0x15, 0x01, 0x23, 0x08, 0x06
    .cfi_escape 0x12, 0x15, 0x02, 0x2c, 0x28, 0x20, 0x00, 0x12, 0x15, 0x02, 0x1c, 0x36, 0x25, 0x35, 0x24, 0x15, 0x02, 0x22, 0x12, 0x06, 0x15, 0x05, 0x2b, 0x28, 0x05, 0x00, 0x16, 0x13, 0x2f, 0xe1, 0xff
    .cfi_escape 0x23, 0x20, 0x17, 0x16, 0x13, 0x2f, 0xd9, 0xff
    .cfi_escape 0x13, 0x12, 0x15, 0x02, 0x23, 0x08, 0x06, 0x2a, 0x28, 0x08, 0x00, 0x12, 0x06, 0x15, 0x03, 0x29, 0x28, 0x05, 0x00
    .cfi_escape 0x13, 0x06, 0x2f, 0xb1, 0xff
    .cfi_escape 0x12, 0x23, 0x08, 0x06, 0x12, 0x0b, 0x00, 0xf8, 0x1a, 0x80, 0x00, 0x0b, 0x00, 0xf8, 0x1a, 0x2e, 0x28, 0x62, 0x00, 0x13, 0x2f, 0xe4, 0xff
    .cfi_escape 0x13, 0x80, 0x00, 0x0b, 0x00, 0xf8, 0x1a, 0x12, 0x06, 0x22, 0x06
    .cfi_escape 0x12, 0x28, 0x03, 0x00, 0x2f, 0x38, 0x00
    .cfi_escape 0x12, 0x23, 0x08, 0x06
    .cfi_escape 0x12, 0x15, 0x02, 0x23, 0x10, 0x06, 0x29, 0x28, 0x25, 0x00, 0x08, 0x20, 0x1c, 0x12, 0x06, 0x15, 0x03, 0x29, 0x28, 0x03, 0x00, 0x2f, 0xe8, 0xff
    .cfi_escape 0x12, 0x23, 0x08, 0x06, 0x12, 0x0b, 0x00, 0xf8, 0x1a, 0x80, 0x00, 0x0b, 0x00, 0xf8, 0x1a, 0x2e, 0x28, 0x1d, 0x00, 0x13, 0x2f, 0xd1, 0xff
    .cfi_escape 0x13, 0x06, 0x2f, 0xc1, 0xff
    .cfi_escape 0x13, 0x38, 0x1c, 0x06, 0x12, 0x0b, 0x00, 0xf8, 0x1a, 0x80, 0x00, 0x0b, 0x00, 0xf8, 0x1a, 0x2e, 0x28, 0x01, 0x00, 0x31
    .cfi_escape 0x31, 0x1c
    lea rsp, [rsp + 144]
    .cfi_def_cfa rsp, 0
    call qword ptr [rsp - 16]
    .globl bpftime_attach_return_label
    .hidden bpftime_attach_return_label
bpftime_attach_return_label:
    lea rsp, [rsp - 216]
    .cfi_adjust_cfa_offset 216
    mov [rsp + 120], rax
    bpftime_attach_save_flags
    mov [rsp + 128], rcx
    bpftime_attach_block rax, {guard}, 6f
    bpftime_attach_save_rest
    mov rcx, [rax + {top}]
    lea rdx, [rsp + 216]
    mov rsi, [rcx - {entry_bytes} + {frame_return_address}]
    lea rdi, bpftime_attach_return_label[rip]
    cmp [rcx - {entry_bytes}], rdx
    jne 5f
    cmp rsi, rdi
    je 5f
    mov qword ptr [rsp], {mark}
    mov [rax + {guard}], rsp
    mov [rsp + 8], rax
    mov [rsp + 32], rcx
    mov [rsp + 168], rsi
    mov rdx, [rcx - {entry_bytes} + {frame_site}]
    mov rsi, [rcx - {entry_bytes} + {frame_newest}]
    mov rcx, [rdx + {exit}]
    cmp [rcx + {newest}], rsi
    ja 4f
    test byte ptr [rcx], {slow}
    jnz 4f
    test byte ptr [rcx], {more_than_one}
    jnz 3f
    bpftime_attach_run_one
2:
    mov rcx, [rsp + 32]
    cmp [rax + {top}], rcx
    jne 9f
    mov rdx, [rsp + 168]
    mov [rsp + 208], rdx
    lea rcx, [rcx - {entry_bytes}]
    mov qword ptr [rcx], 0
    mov [rax + {top}], rcx
    mov qword ptr [rax + {guard}], 0
    bpftime_attach_restore_flags
    bpftime_attach_restore_rest
    mov rcx, [rsp + 128]
    mov rax, [rsp + 120]
    lea rsp, [rsp + 208]
    .cfi_adjust_cfa_offset -208
    ret
    .cfi_adjust_cfa_offset 208
3:
    test byte ptr [rcx], {nothing}
    jnz 2b
    test byte ptr [rcx], {all_registers}
    jz 3f
    lea rdx, [rsp + 216]
    mov [rsp + 192], rdx
    bpftime_attach_fill
3:
    test byte ptr [rcx], {vectors}
    jnz 3f
    bpftime_attach_run_all rsp
    mov rax, [rsp + 8]
    jmp 2b
3:
    bpftime_attach_run_vectors 216
    mov rax, [rsp + 8]
    jmp 2b
9:
    mov qword ptr [rcx - {entry_bytes} + {frame_newest}], 0
4:
    mov qword ptr [rax + {guard}], 0
5:
    bpftime_attach_restore_rest
6:
    bpftime_attach_restore_flags
    mov rcx, [rsp + 128]
    mov rax, [rsp + 120]
    lea rsp, [rsp + 208]
    .cfi_adjust_cfa_offset -208
    .cfi_adjust_cfa_offset 8
    bpftime_attach_save_regs 176, rax, -1, rcx, rax
    lea rax, [rbp + 176]
    mov [rbp + 152], rax
    bpftime_attach_before_call
    lea rsi, [rbp + 168]
    call {on_return}
    bpftime_attach_restore_regs 176
    lea rsp, [rsp + 48]
    .cfi_adjust_cfa_offset -48
    ret
    bpftime_attach_end bpftime_attach_return_call
    # Refuses to assemble if the stub does not fit.
    .org bpftime_attach_return_page + {stub_bytes}
    .popsection
"#,
    include_str!("run_end.s"),
    include_str!("macros_end.s"),
    hits = const offsets::HITS,
    data = const offsets::DATA,
    callback = const offsets::CALLBACK,
    more = const offsets::MORE,
    next = const offsets::NEXT,
    on_return = sym on_return,
    stub_bytes = const STUB_BYTES,
    guard = const block::GUARD,
    mark = const MARK,
    exit = const offsets::EXIT,
    first = const offsets::FIRST,
    newest = const offsets::NEWEST,
    top = const block::TOP,
    entry_bytes = const block::ENTRY,
    frame_return_address = const block::RETURN_ADDRESS,
    frame_site = const block::SITE,
    frame_newest = const block::NEWEST,
    slow = const SLOW.0,
    vectors = const Needs::VECTORS.0,
    all_registers = const Needs::ALL_REGISTERS.0,
    nothing = const Needs::NOTHING_TO_RUN.0,
    more_than_one = const Needs::VECTORS
        .and(Needs::ALL_REGISTERS)
        .and(Needs::SEVERAL)
        .and(Needs::NOTHING_TO_RUN)
        .0,
);
