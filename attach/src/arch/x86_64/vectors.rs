//! Calls of C functions from code that may change no vector register.

use core::arch::global_asm;

unsafe extern "C" {
    /// Jumped to with the address of a C function in r11 and its arguments where
    /// C has them: calls it with DF clear, and gives back its result, every
    /// vector register and DF as they were. The stack needs no alignment.
    pub fn bpftime_attach_saving_vectors();
}

global_asm!(
    include_str!("macros.s"),
    r#"
    .pushsection .text.bpftime_attach_saving_vectors,"ax",@progbits
    bpftime_attach_function bpftime_attach_saving_vectors, 4
    bpftime_attach_push rbp
    .cfi_offset rbp, -16
    mov rbp, rsp
    .cfi_def_cfa_register rbp
    pushfq
    cld
    bpftime_attach_save_vectors
    call r11
    bpftime_attach_restore_vectors
    test byte ptr [rbp - 7], 4
    jz 2f
    std
2:
    leave
    .cfi_def_cfa rsp, 8
    .cfi_restore rbp
    ret
    bpftime_attach_end bpftime_attach_saving_vectors
    .popsection
"#,
    include_str!("macros_end.s"),
);
