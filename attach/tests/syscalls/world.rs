//! Probes that count, by number, and instructions of every kind.

use std::arch::global_asm;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bpftime_attach::syscalls::Text;
use bpftime_attach::{Engine, Hits, SyscallEvent, SyscallProbe, When};

use crate::common;

/// Calls seen, by number, enter and exit; the last number's slot is for all
/// that are not there.
pub static ENTERED: [AtomicU64; 513] = [const { AtomicU64::new(0) }; 513];
pub static EXITED: [AtomicU64; 513] = [const { AtomicU64::new(0) }; 513];
/// The last call of `getppid`'s arguments and result.
pub static ARGS: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
pub static RESULT: AtomicI64 = AtomicI64::new(0);
pub static MISSED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn on_enter(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event, valid during the call.
    let (nr, regs) = unsafe { ((*event).nr, &*(*event).regs) };
    ENTERED[usize::try_from(nr).unwrap_or(512).min(512)].fetch_add(1, Ordering::Relaxed);
    if nr == libc::SYS_getppid {
        let args = [regs.di, regs.si, regs.dx, regs.r10, regs.r8, regs.r9];
        for (seen, arg) in ARGS.iter().zip(args) {
            seen.store(arg, Ordering::Relaxed);
        }
        assert_eq!(regs.ax as i64, -i64::from(libc::ENOSYS));
    }
}

unsafe extern "C" fn on_exit(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: as above.
    let (nr, regs) = unsafe { ((*event).nr, &*(*event).regs) };
    EXITED[usize::try_from(nr).unwrap_or(512).min(512)].fetch_add(1, Ordering::Relaxed);
    if nr == libc::SYS_getppid {
        RESULT.store(regs.ax as i64, Ordering::Relaxed);
    }
}

pub fn probe(when: When, nr: Option<i64>) -> SyscallProbe {
    SyscallProbe {
        when,
        nr: nr.map(|nr| nr as u32),
        callback: match when {
            When::Enter => on_enter,
            When::Exit => on_exit,
        },
        data: std::ptr::null(),
        hits: Hits::UNCOUNTED,
        missed: &raw const MISSED,
        observes: false,
        light: None,
    }
}

/// The module that an address is in, the program's or a library's.
pub fn modules() -> Vec<Arc<Text>> {
    let own = modules as *const () as usize;
    let modules = [own, libc::getppid as *const () as usize].map(common::module_of);
    modules
        .map(|module| Arc::new(Text::of_module(module)))
        .to_vec()
}

/// One test at a time counts.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `body` while all or one number is traced; gives what was counted of `nr`.
pub fn traced(wanted: Option<i64>, nr: i64, body: impl FnOnce()) -> (u64, u64) {
    let engine = Engine::new().expect("an engine");
    let modules = modules();
    let before = counts(nr);
    engine.trace_syscalls(
        &modules,
        &[probe(When::Enter, wanted), probe(When::Exit, wanted)],
    );
    body();
    let after = counts(nr);
    engine.trace_syscalls(&modules, &[]);
    assert_eq!(engine.syscall_sites(), []);
    (after.0 - before.0, after.1 - before.1)
}

pub fn counts(nr: i64) -> (u64, u64) {
    let index = nr as usize;
    (
        ENTERED[index].load(Ordering::Relaxed),
        EXITED[index].load(Ordering::Relaxed),
    )
}

global_asm!(
    r#"
    .text
    .macro test_function name
    .globl \name
    .type \name,@function
    .p2align 4
\name:
    .endm
    test_function test_constant
    mov eax, 110
    syscall
    ret
    .size test_constant, . - test_constant
    test_function test_variable
    mov rax, rdi
    mov rdi, rsi
    syscall
    ret
    .size test_variable, . - test_variable
    // The other way to make one; nobody calls it.
    test_function test_int80
    mov eax, 20
    int 0x80
    ret
    .size test_int80, . - test_int80
    // Bytes of a system call inside another instruction.
    test_function test_hidden
    mov eax, 0x050f050f
    mov ecx, 0x0000050f
    add rax, rcx
    ret
    .size test_hidden, . - test_hidden
    // Fills every register, flag and the red zone; says what changed.
    test_function test_state
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push 0xed7
    popfq
    mov ebx, 1
    mov edx, 2
    mov esi, 3
    mov edi, 4
    mov ebp, 5
    mov r8d, 6
    mov r9d, 7
    mov r10d, 8
    mov r12d, 9
    mov r13d, 10
    mov r14d, 11
    mov r15d, 12
    mov qword ptr [rsp - 8], 13
    mov qword ptr [rsp - 64], 14
    mov qword ptr [rsp - 128], 15
    movq xmm0, rbx
    movq xmm7, r10
    movq xmm15, r15
    mov eax, 110
    syscall
1:
    lea r11, [r11]
    pushfq
    cld
    pop rax
    xor r11, rax
    and r11, 0xcd5
    and eax, 0xcd5
    lea rax, [rax + r11]
    sub rax, 0xcd5
    lea r11, [rip + 1b]
    xor rcx, r11
    or rax, rcx
    sub rbx, 1
    or rax, rbx
    sub rdx, 2
    or rax, rdx
    sub rsi, 3
    or rax, rsi
    sub rdi, 4
    or rax, rdi
    sub rbp, 5
    or rax, rbp
    sub r8, 6
    or rax, r8
    sub r9, 7
    or rax, r9
    sub r10, 8
    or rax, r10
    sub r12, 9
    or rax, r12
    sub r13, 10
    or rax, r13
    sub r14, 11
    or rax, r14
    sub r15, 12
    or rax, r15
    mov rcx, [rsp - 64]
    sub rcx, 14
    or rax, rcx
    mov rcx, [rsp - 128]
    sub rcx, 15
    or rax, rcx
    movq rcx, xmm0
    sub rcx, 1
    or rax, rcx
    movq rcx, xmm7
    sub rcx, 8
    or rax, rcx
    movq rcx, xmm15
    sub rcx, 12
    or rax, rcx
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .size test_state, . - test_state
"#
);

unsafe extern "C" {
    pub fn test_constant(a: u64, b: u64, c: u64) -> i64;
    pub fn test_variable(nr: i64, a: u64) -> i64;
    pub fn test_hidden() -> u64;
    pub fn test_state() -> u64;
}

pub fn unsafe_getppid() -> i32 {
    // SAFETY: takes no argument.
    unsafe { libc::getppid() }
}

/// Waits for a child and gives what it returned.
pub fn wait_for(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child that the caller made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}
