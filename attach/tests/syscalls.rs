//! System call hooks: numbers, arguments and results, what a program sees of
//! its own calls, and calls that children and signals come back from.
#![cfg(target_arch = "x86_64")]

mod common;

use std::arch::global_asm;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bpftime_attach::syscalls::{LightCallback, LightFunction, Memo, Text};
use bpftime_attach::{Backend, Engine, Hits, SyscallEvent, SyscallProbe, When};

/// Calls seen, by number, enter and exit; the last number's slot is for all
/// that are not there.
static ENTERED: [AtomicU64; 513] = [const { AtomicU64::new(0) }; 513];
static EXITED: [AtomicU64; 513] = [const { AtomicU64::new(0) }; 513];
/// The last call of `getppid`'s arguments and result.
static ARGS: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];
static RESULT: AtomicI64 = AtomicI64::new(0);
static MISSED: AtomicU64 = AtomicU64::new(0);

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

fn probe(when: When, nr: Option<i64>) -> SyscallProbe {
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
fn modules() -> Vec<Arc<Text>> {
    let own = modules as *const () as usize;
    let modules = [own, libc::getppid as *const () as usize].map(common::module_of);
    modules
        .map(|module| Arc::new(Text::of_module(module)))
        .to_vec()
}

/// One test at a time counts.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `body` while all or one number is traced; gives what was counted of `nr`.
fn traced(wanted: Option<i64>, nr: i64, body: impl FnOnce()) -> (u64, u64) {
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

fn counts(nr: i64) -> (u64, u64) {
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
    fn test_constant(a: u64, b: u64, c: u64) -> i64;
    fn test_variable(nr: i64, a: u64) -> i64;
    fn test_hidden() -> u64;
    fn test_state() -> u64;
}

#[test]
fn arguments_and_results() {
    let _alone = alone();
    let counted = traced(Some(libc::SYS_getppid), libc::SYS_getppid, || {
        // SAFETY: getppid(2) takes no argument.
        let result = unsafe { test_constant(11, 22, 33) };
        assert_eq!(result, i64::from(unsafe_getppid()));
        // SAFETY: as above.
        unsafe { test_constant(11, 22, 33) };
        let seen: Vec<u64> = ARGS.iter().map(|a| a.load(Ordering::Relaxed)).collect();
        assert_eq!(seen[..3], [11, 22, 33]);
        assert_eq!(RESULT.load(Ordering::Relaxed), result);
    });
    assert_eq!(counted, (3, 3));
}

fn unsafe_getppid() -> i32 {
    // SAFETY: takes no argument.
    unsafe { libc::getppid() }
}

#[test]
fn numbers_that_come_at_run_time() {
    let _alone = alone();
    for wanted in [Some(libc::SYS_getuid), None] {
        let counted = traced(wanted, libc::SYS_getuid, || {
            // SAFETY: calls without effect.
            unsafe {
                for _ in 0..10 {
                    assert_eq!(test_variable(libc::SYS_getuid, 0), libc::getuid().into());
                    assert_eq!(test_variable(libc::SYS_getgid, 0), libc::getgid().into());
                    assert_eq!(test_variable(-1, 0), -i64::from(libc::ENOSYS));
                    assert_eq!(test_variable(100_000, 0), -i64::from(libc::ENOSYS));
                    libc::syscall(libc::SYS_getuid);
                }
            }
        });
        assert_eq!(counted, (30, 30), "{wanted:?}");
    }
}

#[test]
fn other_numbers_are_left_alone() {
    let _alone = alone();
    let counted = traced(Some(libc::SYS_getuid), libc::SYS_getppid, || {
        // SAFETY: calls without effect.
        unsafe {
            test_constant(0, 0, 0);
            test_variable(libc::SYS_getppid, 0);
        }
        let sites = Engine::new().expect("an engine").syscall_sites();
        let constant = test_constant as *const () as usize + 5;
        assert!(sites.iter().all(|site| site.addr != constant), "not hooked");
    });
    assert_eq!(counted, (0, 0));
}

#[test]
fn bytes_inside_other_instructions_stay() {
    let _alone = alone();
    traced(None, libc::SYS_getppid, || {
        let hidden = test_hidden as *const () as usize;
        let sites = Engine::new().expect("an engine").syscall_sites();
        assert!(
            sites
                .iter()
                .all(|site| !(hidden..hidden + 16).contains(&site.addr))
        );
        // SAFETY: only adds.
        assert_eq!(unsafe { test_hidden() }, 0x050f_0a1e);
    });
}

#[test]
fn registers_flags_and_red_zone_stay() {
    let _alone = alone();
    // SAFETY: restores what it changes.
    assert_eq!(unsafe { test_state() }, 0, "without hooks");
    let counted = traced(Some(libc::SYS_getppid), libc::SYS_getppid, || {
        // SAFETY: as above.
        assert_eq!(unsafe { test_state() }, 0);
    });
    assert_eq!(counted, (1, 1));
}

#[test]
fn every_instruction_of_libc_is_hooked() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    engine.trace_syscalls(&modules(), &[probe(When::Enter, None)]);
    let sites = engine.syscall_sites();
    engine.trace_syscalls(&modules(), &[]);
    let refused: Vec<_> = sites.iter().filter(|site| site.tactic.is_err()).collect();
    assert!(sites.len() > 300);
    // That of `test_int80`.
    assert_eq!(engine.other_syscalls(), 1);
    assert!(refused.is_empty(), "{refused:x?}");
}

/// Waits for a child and gives what it returned.
fn wait_for(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: waits for a child that the caller made.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

#[test]
fn children_of_every_kind_come_back() {
    let _alone = alone();
    // Memory that children share.
    // SAFETY: a new mapping.
    let shared = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0)
    };
    // SAFETY: the page is there and zero.
    let in_child = unsafe { &*shared.cast::<AtomicU64>() };
    let clone = traced(None, libc::SYS_clone, || {
        for _ in 0..50 {
            // SAFETY: the child makes one call and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                in_child.fetch_add(
                    EXITED[libc::SYS_clone as usize].load(Ordering::Relaxed),
                    Ordering::Relaxed,
                );
                // SAFETY: ends the child.
                unsafe { libc::_exit(3) };
            }
            assert_eq!(wait_for(child) >> 8, 3);
        }
    });
    // In the i-th child, i exits of parents were counted, and its own.
    assert_eq!(clone, (50, 50));
    let before = EXITED[libc::SYS_clone as usize].load(Ordering::Relaxed) - 50;
    assert_eq!(
        in_child.load(Ordering::Relaxed),
        (1..=50).map(|i| before + i).sum()
    );
    let vfork = traced(None, libc::SYS_execve, || {
        for _ in 0..20 {
            // SAFETY: the child executes another program at once.
            let child = unsafe { vfork() };
            if child == 0 {
                let nothing: [*const libc::c_char; 1] = [std::ptr::null()];
                // SAFETY: ends the child, one way or the other.
                unsafe {
                    libc::execve(c"/bin/true".as_ptr(), nothing.as_ptr(), nothing.as_ptr());
                    libc::_exit(1);
                }
            }
            assert_eq!(wait_for(child), 0);
        }
    });
    assert_eq!(vfork, (20, 0), "a program that is executed does not return");
    let spawned = traced(None, libc::SYS_wait4, || {
        for _ in 0..20 {
            let status = std::process::Command::new("/bin/sh")
                .args(["-c", "exit 5"])
                .status();
            assert_eq!(status.expect("a shell").code(), Some(5));
        }
    });
    assert!(spawned.0 >= 20);
    let threads = traced(None, libc::SYS_clone3, || {
        for _ in 0..50 {
            let result = std::thread::spawn(|| std::thread::spawn(|| 7).join());
            assert_eq!(result.join().expect("no panic").expect("no panic"), 7);
        }
    });
    assert_eq!(threads, (100, 200), "the threads come back from it too");
}

static HANDLED: AtomicU64 = AtomicU64::new(0);
static FRAMES: Mutex<Vec<usize>> = Mutex::new(Vec::new());

unsafe extern "C" {
    fn vfork() -> libc::pid_t;
    fn backtrace(buffer: *mut *mut libc::c_void, size: libc::c_int) -> libc::c_int;
}

extern "C" fn on_signal(_signal: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
    let mut frames = [std::ptr::null_mut(); 64];
    // SAFETY: the buffer has 64 places.
    let count = unsafe { backtrace(frames.as_mut_ptr(), 64) };
    if let Ok(mut seen) = FRAMES.try_lock() {
        seen.clear();
        seen.extend(frames.iter().take(count as usize).map(|f| *f as usize));
    }
}

fn handle(signal: libc::c_int, flags: libc::c_int) {
    // SAFETY: zeros are a valid sigaction, the handler is async-signal-safe
    // once backtrace(3) has been called before.
    unsafe {
        let mut frames = [std::ptr::null_mut(); 4];
        backtrace(frames.as_mut_ptr(), 4);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = flags;
        assert_eq!(
            libc::sigaction(signal, &raw const action, std::ptr::null_mut()),
            0
        );
    }
}

/// Sends `signal` to the calling thread soon, once.
fn alarm_soon() -> std::thread::JoinHandle<()> {
    // SAFETY: the calling thread's own id.
    let (me, pid) = unsafe { (libc::gettid(), libc::getpid()) };
    std::thread::spawn(move || {
        // Sleeping inside pause(2) or read(2): `S`, in that very call.
        let path = format!("/proc/self/task/{me}/syscall");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::time::Instant::now() < deadline {
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            if now.starts_with("34 ") || now.starts_with("0 ") {
                break;
            }
            std::thread::yield_now();
        }
        // SAFETY: a signal to a thread that handles it.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, me, libc::SIGUSR1) };
    })
}

#[test]
fn signals_interrupt_calls_and_unwinders_get_through() {
    let _alone = alone();
    handle(libc::SIGUSR1, 0);
    let handled = HANDLED.load(Ordering::Relaxed);
    let counted = traced(None, libc::SYS_pause, || {
        let waker = alarm_soon();
        // SAFETY: waits for the signal.
        let result = unsafe { libc::pause() };
        assert_eq!(result, -1);
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EINTR)
        );
        waker.join().expect("no panic");
    });
    assert_eq!(counted, (1, 1));
    assert_eq!(HANDLED.load(Ordering::Relaxed), handled + 1);
    let frames = FRAMES.lock().expect("no handler runs").clone();
    let pause = libc::pause as *const () as usize;
    let inside = |frame: &usize| (pause..pause + 256).contains(frame);
    let at = frames
        .iter()
        .position(inside)
        .expect("libc's pause is among the frames");
    assert!(frames.len() > at + 3, "and its callers: {frames:x?}");
}

#[test]
fn restarted_calls_go_on() {
    let _alone = alone();
    handle(libc::SIGUSR1, libc::SA_RESTART);
    let mut fds = [0; 2];
    // SAFETY: room for two.
    assert_eq!(unsafe { libc::pipe(fds.as_mut_ptr()) }, 0);
    let handled = HANDLED.load(Ordering::Relaxed);
    traced(None, libc::SYS_read, || {
        let waker = alarm_soon();
        let [_, write_end] = fds;
        let writer = std::thread::spawn(move || {
            while HANDLED.load(Ordering::Relaxed) == handled {
                std::thread::yield_now();
            }
            // SAFETY: one byte that is there.
            unsafe { libc::write(write_end, c"x".as_ptr().cast(), 1) };
        });
        let mut byte = 0_u8;
        // SAFETY: room for one.
        let read = unsafe { libc::read(fds[0], (&raw mut byte).cast(), 1) };
        assert_eq!((read, byte), (1, b'x'));
        waker.join().expect("no panic");
        writer.join().expect("no panic");
    });
    assert_eq!(HANDLED.load(Ordering::Relaxed), handled + 1);
}

#[test]
fn eight_threads_while_hooks_come_and_go() {
    let _alone = alone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let engine = Engine::new().expect("an engine");
    let modules = modules();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let stop = &stop;
                scope.spawn(move || {
                    // SAFETY: calls without effect.
                    let (parent, me) = unsafe { (libc::getppid(), libc::getpid()) };
                    let mut rounds = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        // SAFETY: as above.
                        unsafe {
                            assert_eq!(libc::getppid(), parent);
                            assert_eq!(test_constant(i, 2, 3), parent.into());
                            assert_eq!(test_variable(libc::SYS_getpid, i), me.into());
                            assert_eq!(libc::syscall(libc::SYS_getpid), me.into());
                            assert_eq!(test_state(), 0);
                        }
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..8 {
            engine.trace_syscalls(
                &modules,
                &[probe(When::Enter, None), probe(When::Exit, None)],
            );
            let twice = [probe(When::Exit, Some(libc::SYS_getppid))];
            engine.trace_syscalls(&modules, &twice);
            engine.trace_syscalls(&modules, &[]);
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            assert!(thread.join().expect("no difference") > 0);
        }
    });
}

unsafe extern "C" fn deny(event: *mut SyscallEvent, _data: *const ()) {
    // SAFETY: the engine's event, valid during the call.
    unsafe {
        (*event).is_answered = true;
        (*event).answer = -i64::from(libc::EPERM);
    }
}

#[test]
fn a_probe_may_answer_in_the_place_of_the_kernel() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let denies = SyscallProbe {
        callback: deny,
        ..probe(When::Enter, Some(libc::SYS_getppid))
    };
    let before = counts(libc::SYS_getppid);
    let exit = probe(When::Exit, Some(libc::SYS_getppid));
    engine.trace_syscalls(&modules(), &[denies, exit]);
    // SAFETY: calls without effect.
    let results = unsafe { (test_constant(0, 0, 0), test_variable(libc::SYS_getppid, 0)) };
    engine.trace_syscalls(&modules(), &[]);
    let denied = -i64::from(libc::EPERM);
    assert_eq!(results, (denied, denied));
    assert_eq!(RESULT.load(Ordering::Relaxed), denied);
    assert_eq!(counts(libc::SYS_getppid), (before.0, before.1 + 2));
    // SAFETY: as above.
    assert_eq!(unsafe { test_constant(0, 0, 0) }, unsafe_getppid().into());
}

/// Runs `body` in a forked child; its status, 101 after a panic.
fn in_child(body: impl FnOnce()) -> i32 {
    // SAFETY: no other thread of this process holds a lock that matters.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: ends the child.
        unsafe { libc::_exit(if done.is_ok() { 0 } else { 101 }) };
    }
    let mut status = -1;
    // SAFETY: `status` is ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WEXITSTATUS(status)
}

/// The texts of the program and libc as files: where they are mapped.
fn mapped_files() -> Vec<(usize, std::ops::Range<usize>, u64)> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let at = [
        modules as *const () as usize,
        libc::getppid as *const () as usize,
    ];
    let of = |addr: usize| {
        let lines = maps.lines().filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let hex = |text| usize::from_str_radix(text, 16).ok();
            let offset = hex(rest.split(' ').nth(1)?)?;
            Some((addr, hex(start)?..hex(end)?, offset as u64))
        });
        lines
            .into_iter()
            .find(|(_, range, _)| range.contains(&addr))
    };
    at.map(|addr| of(addr).expect("mapped")).to_vec()
}

#[test]
fn what_was_found_out_once_hooks_the_same_again() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let probes = [probe(When::Enter, None), probe(When::Exit, None)];
    let files = mapped_files();
    let text = |(_, range, offset): &(usize, std::ops::Range<usize>, u64), memo| {
        Arc::new(Text::of_file(&[(range.clone(), *offset)], memo))
    };
    let known = || format!("{:x?}", engine.syscall_sites());
    // Jumps in padding stay for ever: the first look is a child's.
    let directory = tempfile::tempdir().expect("a directory");
    let kept = |index: usize| directory.path().join(index.to_string());
    let looks = || {
        let looked: Vec<Arc<Text>> = files.iter().map(|file| text(file, None)).collect();
        let traced = engine.trace_syscalls(&looked, &probes);
        assert_eq!(traced.lacking.len(), looked.len(), "nothing is known yet");
        for (text, (addr, ..)) in looked.iter().zip(&files) {
            text.set_module(common::module_of(*addr));
        }
        let traced = engine.trace_syscalls(&looked, &probes);
        assert!(traced.lacking.is_empty() && traced.has_hooked);
        let known = known();
        engine.trace_syscalls(&[], &[]);
        for (index, text) in looked.iter().enumerate() {
            let memo = engine.syscall_memo(text).expect("a memo");
            std::fs::write(kept(index), memo.to_bytes()).expect("written");
        }
        std::fs::write(kept(2), known).expect("written");
    };
    assert_eq!(in_child(looks), 0);
    let memos: Vec<Memo> = [0, 1]
        .map(|index| std::fs::read(kept(index)).expect("kept"))
        .map(|bytes| Memo::from_bytes(&bytes).expect("whole"))
        .to_vec();
    let first = std::fs::read_to_string(kept(2)).expect("kept");
    assert!(first.matches("addr").count() > 400, "{first}");
    let forget = || {
        engine.trace_syscalls(&[], &[]);
        for (_, range, _) in &files {
            engine.forget_range(range.clone());
        }
    };

    let remembered = files
        .iter()
        .zip(&memos)
        .map(|(file, memo)| text(file, Some(memo.clone())));
    let remembered: Vec<Arc<Text>> = remembered.collect();
    let traced = engine.trace_syscalls(&remembered, &probes);
    let lacking = traced.lacking.len();
    let again = known();
    let before = counts(libc::SYS_getppid);
    // SAFETY: calls without effect.
    unsafe {
        test_constant(0, 0, 0);
        test_variable(libc::SYS_getppid, 0);
        libc::getppid();
        libc::syscall(libc::SYS_getppid);
    }
    let after = counts(libc::SYS_getppid);
    forget();
    assert_eq!((lacking, after.0 - before.0, after.1 - before.1), (0, 4, 4));
    assert_eq!(again, first);

    // Another file's memo, and one of this file mapped elsewhere, is no use.
    let swapped = files
        .iter()
        .zip(memos.iter().rev())
        .map(|(file, memo)| text(file, Some(memo.clone())));
    let shifted = files
        .iter()
        .zip(&memos)
        .map(|((addr, range, offset), memo)| {
            text(&(*addr, range.clone(), offset + 16), Some(memo.clone()))
        });
    let useless: Vec<Arc<Text>> = swapped.chain(shifted).collect();
    let traced = engine.trace_syscalls(&useless, &probes);
    let patched = engine.syscall_sites().len();
    forget();
    assert_eq!((traced.lacking.len(), patched), (4, 0));
}

/// What light callbacks saw: the record at enter and at exit, and how often.
static RECORDS: [[AtomicU64; 8]; 2] = [const { [const { AtomicU64::new(0) }; 8] }; 2];
static LIGHT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Notes the record and leaves nothing as it was that it may change.
macro_rules! light_callback {
    ($name:ident, $side:literal, $words:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(_record: *mut u8, _nothing: *mut ()) -> u64 {
            std::arch::naked_asm!(
                "lea rdx, [rip + {records} + 64 * {side}]",
                "xor ecx, ecx",
                "2:",
                "mov rax, [rdi + 8 * rcx]",
                "mov [rdx + 8 * rcx], rax",
                "inc ecx",
                "cmp ecx, {words}",
                "jb 2b",
                "mov [rdx], rsi",
                "lock inc qword ptr [rip + {count} + 8 * {side}]",
                "mov rax, -1",
                "mov rdx, rax",
                "mov rsi, rax",
                "mov rdi, rax",
                "mov r8, rax",
                "mov r9, rax",
                "mov r10, rax",
                "mov r11, rax",
                "mov rcx, rax",
                "add eax, 0x7fffffff",
                "ret",
                records = sym RECORDS,
                count = sym LIGHT,
                side = const $side,
                words = const $words,
            )
        }
    };
}

light_callback!(light_enter, 0, 8);
light_callback!(light_exit, 1, 3);

fn light_probe(when: When, nr: Option<i64>, is_raw: bool) -> SyscallProbe {
    let function = match when {
        When::Enter => light_enter,
        When::Exit => light_exit as LightFunction,
    };
    SyscallProbe {
        light: Some(LightCallback { function, is_raw }),
        ..probe(when, nr)
    }
}

fn light_counts() -> [u64; 2] {
    [0, 1].map(|side| LIGHT[side].load(Ordering::Relaxed))
}

fn record(side: usize, words: usize) -> Vec<u64> {
    let record = RECORDS[side].iter().take(words);
    record.map(|word| word.load(Ordering::Relaxed)).collect()
}

#[test]
fn light_callbacks_get_the_record_and_change_nothing() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let getppid = libc::SYS_getppid;
    let nr = getppid as u64;
    for (wanted, is_raw) in [(Some(getppid), false), (None, true)] {
        let probes = [When::Enter, When::Exit].map(|when| light_probe(when, wanted, is_raw));
        engine.trace_syscalls(&modules(), &probes);
        // The first call of a thread takes the long way, which counts there.
        // SAFETY: calls without effect; the state is restored.
        let (state, parent) = unsafe {
            test_constant(0, 0, 0);
            let before = light_counts();
            let state = (test_state(), test_state());
            let parent = test_constant(11, 12, 13);
            let after = light_counts();
            assert_eq!([0, 1].map(|side| after[side] - before[side]), [3, 3]);
            (state, parent as u64)
        };
        assert_eq!(state, (0, 0));
        assert_eq!(record(0, 5), [0, nr, 11, 12, 13]);
        let second = if is_raw { parent } else { nr };
        assert_eq!(record(1, 3), [0, second, parent]);
        // A number from elsewhere takes the short way where no exit is wanted.
        engine.trace_syscalls(&modules(), &probes[..1]);
        // SAFETY: as above.
        let variable = unsafe { test_variable(getppid | 7 << 32, 21) } as u64;
        assert_eq!((variable, &record(0, 3)[..]), (parent, &[0, nr, 21][..]));
        engine.trace_syscalls(&modules(), &[]);
    }
}

#[test]
fn light_and_other_callbacks_count_the_same_calls() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let count = |light: bool| {
        let make = |when| match light {
            true => light_probe(when, None, false),
            false => probe(when, None),
        };
        let sum = || {
            let all = |counts: &[AtomicU64]| -> u64 {
                counts
                    .iter()
                    .map(|count| count.load(Ordering::Relaxed))
                    .sum()
            };
            let [enter, exit] = light_counts();
            (all(&ENTERED) + enter, all(&EXITED) + exit)
        };
        engine.trace_syscalls(&modules(), &[make(When::Enter), make(When::Exit)]);
        let before = sum();
        for _ in 0..20 {
            // SAFETY: the child ends at once; calls without effect.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(libc::syscall(libc::SYS_getppid) as i32 & 1);
                }
                wait_for(child);
                libc::raise(libc::SIGCHLD);
                test_variable(libc::SYS_getuid, 0);
            }
        }
        let after = sum();
        engine.trace_syscalls(&modules(), &[]);
        (after.0 - before.0, after.1 - before.1)
    };
    assert_eq!(count(true), count(false));
}
