# What a borrowed thread runs. Up to `work` and after the popfq no instruction
# touches the flags.
.macro bpftime_errand_block mask
mov eax, {SIGPROCMASK}
mov edi, {SIG_SETMASK}
lea rsi, [rip + bpftime_errand + \mask]
mov edx, 0
mov r10d, 8
syscall
.endm
# Everything as it was but rax and rip.
.macro bpftime_errand_back label
mov rbx, [rip + bpftime_errand + {RBX}]
mov rbp, [rip + bpftime_errand + {RBP}]
mov rsp, [rip + bpftime_errand + {RSP}]
mov r8, [rip + bpftime_errand + {R8}]
mov r9, [rip + bpftime_errand + {R9}]
mov r12, [rip + bpftime_errand + {R12}]
mov r13, [rip + bpftime_errand + {R13}]
mov r14, [rip + bpftime_errand + {R14}]
mov r15, [rip + bpftime_errand + {R15}]
bpftime_errand_block {BLOCKED}
\label:
mov rcx, [rip + bpftime_errand + {RCX}]
mov rdx, [rip + bpftime_errand + {RDX}]
mov rsi, [rip + bpftime_errand + {RSI}]
mov rdi, [rip + bpftime_errand + {RDI}]
mov r10, [rip + bpftime_errand + {R10}]
mov r11, [rip + bpftime_errand + {R11}]
.endm
# Whatever fds were received; a closed number is -1.
.macro bpftime_errand_close
cmp qword ptr [rbx + {CONTROL}], 0
je 33f
xor r14d, r14d
31:
mov edi, [rbx + {FDS} + r14 * 4]
test edi, edi
js 32f
mov eax, {CLOSE}
syscall
32:
inc r14d
cmp r14d, {FDS_COUNT}
jb 31b
33:
.endm
.pushsection .rodata.bpftime_errand, "a", @progbits
# Code elsewhere in this binary names them.
.irp label, start, blocked, mapped, receive, paired, received, work, unmapped, last, last_interrupted, end
.globl bpftime_errand_\label
.hidden bpftime_errand_\label
.endr
.globl bpftime_errand
.hidden bpftime_errand
.balign 8
bpftime_errand:
.skip {ORDERS}
# No signal from here on.
bpftime_errand_start:
bpftime_errand_block {BLOCKS}
bpftime_errand_blocked:
mov eax, {MMAP}
mov edi, 0
mov rsi, [rip + bpftime_errand + {LENGTH}]
mov edx, {PROT}
mov r10d, {FLAGS}
mov r8, -1
mov r9d, 0
syscall
# Here the tracer sends the thread to the work. It did not: back.
bpftime_errand_mapped:
mov rbx, rax
mov ebp, 0
jmp 8f
# rbx: the mapping, with a message to receive.
bpftime_errand_receive:
mov eax, {SOCKETPAIR}
mov edi, {AF_UNIX}
mov esi, {SOCK}
mov edx, 0
lea r10, [rbx + {SOCKETS}]
syscall
# Here the tracer sends it.
bpftime_errand_paired:
mov eax, {RECVMSG}
mov edi, [rbx + {SOCKETS}]
lea rsi, [rbx + {MESSAGE}]
mov edx, {RECEIVE}
syscall
# Here the tracer sends the thread to the work. It did not: back.
bpftime_errand_received:
lea rsp, [rbx + {STACK}]
bpftime_errand_close
push [rip + bpftime_errand + {RFLAGS}]
popfq
mov ebp, 0
jmp 8f
# rbx: the mapping, filled in.
bpftime_errand_work:
mov eax, -1
mov edx, -1
xsave64 [rbx]
fninit
ldmxcsr [rip + bpftime_errand + {MXCSR}]
lea rsp, [rbx + {STACK}]
push 2
popfq
xor ebp, ebp
call [rip + bpftime_errand + {ERRNO}]
mov r12, rax
mov r13d, [rax]
lea rdi, [rbx + {PATH}]
mov rsi, [rip + bpftime_errand + {DLOPEN_FLAGS}]
call [rip + bpftime_errand + {DLOPEN}]
mov [rbx + {HANDLE}], rax
test rax, rax
jnz 7f
mov rax, [rip + bpftime_errand + {DLERROR}]
test rax, rax
jz 2f
call rax
mov [rbx + {ERROR}], rax
jmp 2f
# A handle is a struct link_map: first is where the library is.
7:
mov rsi, rax
mov rax, [rax]
add rax, [rip + bpftime_errand + {START}]
lea rdi, [rbx + {SESSIONS}]
call rax
movsxd rax, eax
mov [rbx + {STATUS}], rax
2:
mov [r12], r13d
bpftime_errand_close
# Does a signal that waits for us end the interrupted system call?
mov r14, [rip + bpftime_errand + {INTERRUPTIBLE}]
test r14, r14
jz 5f
mov eax, {SIGPENDING}
lea rdi, [rsp - 64]
mov esi, 8
syscall
mov r15, [rip + bpftime_errand + {BLOCKED}]
not r15
and r15, [rsp - 64]
3:
bsf r12, r15
jz 5f
btr r15, r12
mov eax, {SIGACTION}
lea edi, [r12 + 1]
xor esi, esi
lea rdx, [rsp - 64]
mov r10d, 8
syscall
cmp qword ptr [rsp - 64], {SIG_IGN}
jbe 3b
cmp r14, {ALWAYS}
je 4f
test dword ptr [rsp - 56], {SA_RESTART}
jnz 3b
4:
mov ebp, 1
5:
mov eax, -1
mov edx, -1
xrstor64 [rbx]
push [rip + bpftime_errand + {RFLAGS}]
popfq
8:
mov rdi, rbx
mov rsi, [rip + bpftime_errand + {LENGTH}]
mov eax, {MUNMAP}
syscall
bpftime_errand_unmapped:
mov rcx, rbp
jrcxz 9f
jmp 6f
9:
bpftime_errand_back bpftime_errand_last
mov rax, [rip + bpftime_errand + {RAX}]
jmp [rip + bpftime_errand + {RIP}]
6:
bpftime_errand_back bpftime_errand_last_interrupted
mov rax, {EINTR}
jmp [rip + bpftime_errand + {INTERRUPTED_RIP}]
bpftime_errand_end:
.popsection
