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
    .globl bpftime_attach_return_call
    .hidden bpftime_attach_return_call
    .type bpftime_attach_return_call,@function
    .p2align 4
bpftime_attach_return_call:
    .cfi_startproc
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
    lahf
    seto al
    mov [rsp + 24], eax
    mov [rsp + 128], rcx
    mov rax, bpftime_attach_thread@gottpoff[rip]
    mov rax, fs:[rax]
    test rax, rax
    jz 6f
    cmp qword ptr [rax + {guard}], 0
    jne 6f
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
    mov eax, [rsp + 24]
    add al, 127
    sahf
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
    mov eax, [rsp + 24]
    add al, 127
    sahf
    mov rcx, [rsp + 128]
    mov rax, [rsp + 120]
    lea rsp, [rsp + 208]
    .cfi_adjust_cfa_offset -208
    .cfi_adjust_cfa_offset 8
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
    .cfi_offset rbp, -144
    mov rbp, rsp
    .cfi_def_cfa rbp, 176
    lea rax, [rbp + 176]
    mov [rbp + 152], rax
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
    lea rsi, [rbp + 168]
    call {on_return}
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
    jz 3f
    std
3:
    mov eax, ecx
    shr eax, 11
    and eax, 1
    mov ah, cl
    add al, 127
    sahf
    mov rsp, rbp
    .cfi_def_cfa rsp, 176
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
    .size bpftime_attach_return_call, . - bpftime_attach_return_call
    # Refuses to assemble if the stub does not fit.
    .org bpftime_attach_return_page + {stub_bytes}
    .popsection
    .purgem bpftime_attach_save_rest
    .purgem bpftime_attach_restore_rest
    .purgem bpftime_attach_run_one
    .purgem bpftime_attach_run_all
    .purgem bpftime_attach_fill
    .purgem bpftime_attach_run_vectors
"#,
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
