# What the entry code is written with. Included where it is used, for each unit
# of compilation has an assembler of its own; `macros_end.s` ends each use, so
# that a unit may have several.

# A function that the library does not export. Ends with bpftime_attach_end.
.macro bpftime_attach_function name, align
.globl \name
.hidden \name
.type \name,@function
.p2align \align
\name:
.cfi_startproc
.endm

.macro bpftime_attach_end name
.cfi_endproc
.size \name, . - \name
.endm

# The thread's block, or on to `none` where there is none or a hit is under way.
.macro bpftime_attach_block register, guard, none
mov \register, bpftime_attach_thread@gottpoff[rip]
mov \register, fs:[\register]
test \register, \register
jz \none
cmp qword ptr [\register + \guard], 0
jne \none
.endm

# Status flags, to and from [rsp + 24] through eax: popfq costs twenty cycles.
.macro bpftime_attach_save_flags
lahf
seto al
mov [rsp + 24], eax
.endm

.macro bpftime_attach_restore_flags
mov eax, [rsp + 24]
add al, 127
sahf
.endm

# All vector registers, in aligned memory that becomes the top of the stack.
.macro bpftime_attach_save_vectors
sub rsp, 256
and rsp, -16
.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
movaps [rsp + 16 * \n], xmm\n
.endr
.endm

.macro bpftime_attach_restore_vectors
.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
movaps xmm\n, [rsp + 16 * \n]
.endr
.endm

.macro bpftime_attach_push what
push \what
.cfi_adjust_cfa_offset 8
.endm

.macro bpftime_attach_pop register
pop \register
.cfi_adjust_cfa_offset -8
.endm

# Pushes a `PtRegs`, whose address rbp becomes, `cfa` bytes below the CFA. Its
# stack pointer is left to be filled in.
.macro bpftime_attach_save_regs cfa, ip, orig, cx, ax
bpftime_attach_push 0x2b
bpftime_attach_push rax
pushfq
.cfi_adjust_cfa_offset 8
bpftime_attach_push 0x33
bpftime_attach_push "\ip"
bpftime_attach_push \orig
bpftime_attach_push rdi
bpftime_attach_push rsi
bpftime_attach_push rdx
bpftime_attach_push "\cx"
bpftime_attach_push \ax
.irp register, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15
bpftime_attach_push \register
.endr
.cfi_offset rbp, 32 - \cfa
.cfi_offset rbx, 40 - \cfa
mov rbp, rsp
.cfi_def_cfa rbp, \cfa
.endm

# Makes ready for a call of a C function with the `PtRegs` at rbp: they change
# vector registers and want DF clear.
.macro bpftime_attach_before_call
test byte ptr [rbp + 145], 4
jz 8f
cld
8:
bpftime_attach_save_vectors
mov rdi, rbp
.endm

# Takes everything back from the `PtRegs` at rbp, up to and with rdi, and leaves
# the stack pointer at its orig_rax. DF comes back by std, the only flag besides
# the status flags that code in between needs.
.macro bpftime_attach_restore_regs cfa
bpftime_attach_restore_vectors
mov rcx, [rbp + 144]
test ch, 4
jz 8f
std
8:
mov eax, ecx
shr eax, 11
and eax, 1
mov ah, cl
add al, 127
sahf
mov rsp, rbp
.cfi_def_cfa rsp, \cfa
.irp register, r15, r14, r13, r12
bpftime_attach_pop \register
.endr
bpftime_attach_pop rbp
.cfi_restore rbp
bpftime_attach_pop rbx
.cfi_restore rbx
.irp register, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi
bpftime_attach_pop \register
.endr
.endm

# A function around a system call, jumped to from the program, whose frame it
# passes for.
.macro bpftime_syscalls_function name, align
bpftime_attach_function \name, \align
.cfi_signal_frame
.cfi_def_cfa rsp, 0
.endm

# Where unwinders find the address behind the system call: in the first word of
# `Entry` at r11, or in the second of `Exit` at rcx.
.macro bpftime_syscalls_address_by_entry
.cfi_escape 0x16, 0x10, 0x03, 0x7b, 0x00, 0x06
.endm

.macro bpftime_syscalls_address_by_exit
.cfi_escape 0x16, 0x10, 0x03, 0x72, 0x08, 0x06
.endm
