# How a frame of `direct` or of the return stub runs probes; included like, and
# behind, `macros.s`; `run_end.s` ends each use.

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

# Runs the only probe of the list at rcx, with the block in rax.
.macro bpftime_attach_run_one
mov rcx, [rcx + {first}]
mov rdx, [rcx + {hits}]
mov rsi, [rcx + {data}]
inc qword ptr [rax + rdx]
lea rdi, [rsp + 40]
call qword ptr [rcx + {callback}]
mov rax, [rsp + 8]
.endm

# Runs the probes of the list at rcx, with the block at [frame + 8].
.macro bpftime_attach_run_all frame
mov rcx, [rcx + {first}]
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

# Fills in the words of `PtRegs` that few callbacks read; flags were saved.
.macro bpftime_attach_fill
mov [rsp + 80], rbx
mov [rsp + 72], rbp
mov [rsp + 64], r12
mov [rsp + 56], r13
mov [rsp + 48], r14
mov [rsp + 40], r15
mov qword ptr [rsp + 160], -1
mov qword ptr [rsp + 176], 0x33
mov qword ptr [rsp + 200], 0x2b
pushfq
.cfi_adjust_cfa_offset 8
pop rdx
.cfi_adjust_cfa_offset -8
and edx, ~0x8d5
movzx esi, byte ptr [rsp + 25]
and esi, 0xd5
or edx, esi
movzx esi, byte ptr [rsp + 24]
shl esi, 11
or edx, esi
mov [rsp + 184], rdx
.endm

# The same for callbacks that may change vector registers. DF shows in where
# `lodsb` goes, for pushfq takes nanoseconds.
.macro bpftime_attach_run_vectors cfa
.cfi_remember_state
mov [rsp + 72], rbp
mov rbp, rsp
.cfi_def_cfa rbp, \cfa
.cfi_offset rbp, 72 - \cfa
mov rsi, rbp
lodsb
sub esi, ebp
mov [rbp + 28], esi
jns 8f
cld
8:
bpftime_attach_save_vectors
bpftime_attach_run_all rbp
bpftime_attach_restore_vectors
cmp dword ptr [rbp + 28], 0
jns 8f
std
8:
mov rsp, rbp
mov rbp, [rsp + 72]
.cfi_restore_state
.endm
