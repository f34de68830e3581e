# How a frame of `direct` or of the return stub runs probes. Included where it is
# used, for each unit of compilation has an assembler of its own; whoever
# includes it purges the macros.
    .macro bpftime_attach_save_rest
    mov [rsp + 136], rdx
    mov [rsp + 144], rsi
    mov [rsp + 152], rdi
    mov [rsp + 112], r8
    mov [rsp + 104], r9
    mov [rsp + 96], r10
    mov [rsp + 88], r11
    .endm

    .macro bpftime_attach_restore_rest
    mov r11, [rsp + 88]
    mov r10, [rsp + 96]
    mov r9, [rsp + 104]
    mov r8, [rsp + 112]
    mov rdi, [rsp + 152]
    mov rsi, [rsp + 144]
    mov rdx, [rsp + 136]
    .endm

    # Runs the probes from rcx on, with the block at [frame + 8].
    .macro bpftime_attach_run frame
7:
    mov rax, [\frame + 8]
    mov rdx, [rcx + {hits}]
    mov rsi, [rcx + {data}]
    inc qword ptr [rax + rdx]
    lea rdi, [\frame + 40]
    mov [\frame + 16], rcx
    call qword ptr [rcx + {callback}]
    mov rcx, [\frame + 16]
    cmp qword ptr [rcx + {more}], 0
    lea rcx, [rcx + {next}]
    jne 7b
    .endm

    # The same for callbacks that may change vector registers.
    .macro bpftime_attach_run_vectors cfa
    .cfi_remember_state
    mov [rsp + 72], rbp
    mov rbp, rsp
    .cfi_def_cfa rbp, \cfa
    .cfi_offset rbp, 72 - \cfa
    pushfq
    pop rdx
    mov [rbp + 184], rdx
    test dh, 4
    jz 8f
    cld
8:
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
    bpftime_attach_run rbp
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
    test byte ptr [rbp + 185], 4
    jz 8f
    std
8:
    mov rsp, rbp
    mov rbp, [rsp + 72]
    .cfi_restore_state
    .endm
