//! Short code that runs in a block of its own does what a callback does: it
//! counts and is counted, is skipped inside of a hit, leaves registers, flags
//! and the red zone alone, and what it uses may go once it is settled.

mod common;

use std::arch::{asm, global_asm};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bpftime_attach::{Around, Backend, Counter, Engine, Hit, HookId, Inline, Kind, Needs, Probe};
use common::attach;
use uapi::PtRegs;

global_asm!(
    r#"
    .text
    # Flags are overwritten, flags are read, and a function that is too short.
    .p2align 4
    .globl block_sum
    .type block_sum,@function
block_sum:
    lea rax, [rdi + rsi]
    cmp rdi, rsi
    adc rax, 0
    ret
    .size block_sum, . - block_sum
    .p2align 4
    .globl block_carry
    .type block_carry,@function
block_carry:
    lea rax, [rdi + rsi + 0]
    adc rax, 0
    ret
    .size block_carry, . - block_carry
    .p2align 4
    .globl block_push
    .type block_push,@function
block_push:
    push rbx
    mov rbx, rdi
    lea rax, [rbx + rsi]
    pop rbx
    ret
    .size block_push, . - block_push
"#
);

unsafe extern "C" {
    fn block_sum();
    fn block_carry();
    fn block_push();
}

const VICTIMS: [unsafe extern "C" fn(); 3] = [block_sum, block_carry, block_push];

/// The tests share victims.
static ALONE: Mutex<()> = Mutex::new(());

/// What the callback counted, where it ran in place of the block.
static CALLED: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn called(_: *mut PtRegs, _: *const (), _: *mut Hit) -> u64 {
    CALLED.fetch_add(1, Ordering::Relaxed);
    0
}

/// Counts at `word` after some turns of a loop, and leaves no register as it
/// was.
fn counting(word: *const AtomicU64, turns: u32) -> &'static Inline {
    let mut code = vec![0xb9];
    code.extend(turns.to_le_bytes());
    code.extend(*b"\xff\xc9\x75\xfc"); // 1: dec ecx; jnz 1b
    code.extend(*b"\x48\xb8");
    code.extend((word as u64).to_le_bytes());
    code.extend(*b"\xf0\x48\xff\x00"); // lock inc qword ptr [rax]
    code.extend(*b"\x53\x31\xdb\x5b"); // push rbx; xor ebx, ebx; pop rbx
    // Of all the others: not rdx, rsi, rdi by way of rdx.
    code.extend(*b"\x48\xc7\xc2\xff\xff\xff\xff\x48\x89\xd6\x48\x89\xd7");
    code.extend(*b"\x49\x89\xd0\x49\x89\xd1\x49\x89\xd2\x49\x89\xd3"); // r8 to r11
    code.extend(*b"\x48\x89\xd5\x49\x89\xd4\x49\x89\xd5\x49\x89\xd6\x49\x89\xd7"); // rbp, r12 to r15
    code.extend(*b"\x48\x89\x54\x24\xf8\x80\xc2\x01"); // mov [rsp - 8], rdx; add dl, 1
    code.push(0xc3);
    Box::leak(Box::new(Inline::of(&code).expect("it may stand anywhere")))
}

fn probe(inline: &'static Inline, counter: &Counter, missed: &'static AtomicU64) -> Probe {
    Probe::new(called, std::ptr::null())
        .needing(Needs::EVERYTHING)
        .counting_hits(counter.hits())
        .counting_misses(missed)
        .inlined(inline)
}

fn leaked() -> &'static AtomicU64 {
    Box::leak(Box::new(AtomicU64::new(0)))
}

/// Registers before and after a call: rax, rbx, rcx, rdx, rsi, rdi, r8 to r15,
/// status flags, and the red zone's ends.
fn call(victim: unsafe extern "C" fn(), flags: u64) -> [u64; 18] {
    let mut state: [u64; 18] = std::array::from_fn(|i| 0x0101_0101_0101_0101 * i as u64);
    state[14] = flags | 0x202;
    // SAFETY: the victims take rdi and rsi and change rax and flags; what else
    // is loaded is declared or put back.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "lea rsp, [rsp - 256]",
            "mov [rsp + 8], {victim}",
            "mov rbp, {state}",
            "mov rax, [rbp + 128]",
            "mov [rsp - 136], rax",
            "mov rax, [rbp + 136]",
            "mov [rsp - 16], rax",
            "push qword ptr [rbp + 112]",
            "popfq",
            "mov rax, [rbp]", "mov rbx, [rbp + 8]", "mov rcx, [rbp + 16]", "mov rdx, [rbp + 24]",
            "mov rsi, [rbp + 32]", "mov rdi, [rbp + 40]", "mov r8, [rbp + 48]",
            "mov r9, [rbp + 56]", "mov r10, [rbp + 64]", "mov r11, [rbp + 72]",
            "mov r12, [rbp + 80]", "mov r13, [rbp + 88]", "mov r14, [rbp + 96]",
            "mov r15, [rbp + 104]",
            "call [rsp + 8]",
            "mov [rbp], rax", "mov [rbp + 8], rbx", "mov [rbp + 16], rcx", "mov [rbp + 24], rdx",
            "mov [rbp + 32], rsi", "mov [rbp + 40], rdi", "mov [rbp + 48], r8",
            "mov [rbp + 56], r9", "mov [rbp + 64], r10", "mov [rbp + 72], r11",
            "mov [rbp + 80], r12", "mov [rbp + 88], r13", "mov [rbp + 96], r14",
            "mov [rbp + 104], r15",
            "mov rax, [rsp - 136]",
            "mov [rbp + 128], rax",
            "lea rsp, [rsp - 256]",
            "pushfq",
            "pop rax",
            "mov [rbp + 112], rax",
            "lea rsp, [rsp + 512]",
            "pop rbp",
            "pop rbx",
            state = in(reg) &raw mut state,
            victim = in(reg) victim as *const (),
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    state
}

const FLAGS: [u64; 6] = [0, 0x1, 0x8d5, 0x8d4, 0x40, 0x801];

#[test]
fn registers_flags_and_the_red_zone_stay() {
    let _alone = ALONE.lock();
    let engine = common::engine();
    for victim in VICTIMS {
        let plain = FLAGS.map(|flags| call(victim, flags));
        let (ran, missed, counter) = (leaked(), leaked(), Counter::new().expect("a counter"));
        let inline = counting(ran, 1);
        let addr = victim as *const () as usize;
        let id = attach(engine, addr, Kind::Entry, probe(inline, &counter, missed));
        CALLED.store(0, Ordering::Relaxed);
        for _ in 0..2 {
            assert_eq!(FLAGS.map(|flags| call(victim, flags)), plain);
        }
        engine.detach(&[id]);
        assert_eq!(FLAGS.map(|flags| call(victim, flags)), plain);
        // A thread's first hit goes by the callback.
        let (called, ran) = (CALLED.load(Ordering::Relaxed), ran.load(Ordering::Relaxed));
        assert!(called <= 1, "{called} calls");
        assert_eq!(called + ran, 12);
        assert_eq!((counter.take(), missed.load(Ordering::Relaxed)), (12, 0));
    }
}

#[test]
fn others_at_the_point_run_too_and_leave_it_again() {
    let _alone = ALONE.lock();
    let engine = common::engine();
    let addr = block_sum as *const () as usize;
    call(block_sum, 0);
    let other = common::attach(
        engine,
        addr,
        Kind::Entry,
        Probe::new(called, std::ptr::null()),
    );
    CALLED.store(0, Ordering::Relaxed);
    call(block_sum, 0);
    assert_eq!(CALLED.load(Ordering::Relaxed), 1);
    let (ran, missed, counter) = (leaked(), leaked(), Counter::new().expect("a counter"));
    let of_block = probe(counting(ran, 1), &counter, missed);
    // What runs, and how: by the callbacks, or in a block.
    let check = |calls: u64, in_block: u64| {
        CALLED.store(0, Ordering::Relaxed);
        ran.store(0, Ordering::Relaxed);
        call(block_sum, 0);
        let seen = (CALLED.load(Ordering::Relaxed), ran.load(Ordering::Relaxed));
        assert_eq!(seen, (calls, in_block));
    };
    let id = attach(engine, addr, Kind::Entry, of_block);
    check(2, 0);
    engine.detach(&[other]);
    check(0, 1);
    let exit = attach(
        engine,
        addr,
        Kind::Return,
        Probe::new(called, std::ptr::null()),
    );
    check(2, 0);
    engine.detach(&[exit]);
    check(0, 1);
    engine.detach(&[id]);
    check(0, 0);
    // The same again, and others than there is room for.
    for _ in 0..3 {
        let id = attach(engine, addr, Kind::Entry, of_block);
        check(0, 1);
        engine.detach(&[id]);
    }
    assert_eq!(counter.take(), 7);
    for turns in 2..12 {
        let id = attach(
            engine,
            addr,
            Kind::Entry,
            probe(counting(ran, turns), &counter, missed),
        );
        call(block_sum, 0);
        engine.detach(&[id]);
    }
    assert_eq!((counter.take(), missed.load(Ordering::Relaxed)), (10, 0));
}

/// Gives up if there is something at `closed`, else leaves its address at `seen`
/// by way of a word of its own, and counts at `seen + 8` at the end.
fn around(closed: *const AtomicU64, seen: *const AtomicU64) -> &'static Inline {
    let mut before = b"\x48\xba".to_vec(); // mov rdx, closed
    before.extend((closed as u64).to_le_bytes());
    before.extend(*b"\x83\x3a\x00\x0f\x85\0\0\0\0"); // cmp dword ptr [rdx], 0; jne
    let gives_up = vec![before.len() - 4];
    before.extend([0x48, 0x89, 0x54, 0x24, Around::OWN + 8]); // mov [rsp + own + 8], rdx
    before.extend([0x48, 0x8d, 0x74, 0x24, Around::OWN]); // lea rsi, [rsp + own]
    let mut after = b"\x48\xba".to_vec(); // mov rdx, seen + 8
    after.extend((seen as u64 + 8).to_le_bytes());
    after.extend(*b"\x48\xff\x02"); // inc qword ptr [rdx]
    let around = Around {
        before,
        gives_up,
        after,
        changed: 1 << 2 | 1 << 6,
    };
    let mut code = b"\x41\x54\x49\x89\xf4\x49\x8b\x44\x24\x08".to_vec(); // push r12; mov r12, rsi; mov rax, [r12 + 8]
    code.extend(*b"\x48\xb9"); // mov rcx, seen
    code.extend((seen as u64).to_le_bytes());
    code.extend(*b"\x48\x89\x01\x41\x5c\xc3"); // mov [rcx], rax; pop r12; ret
    assert_eq!(Inline::of(&code), None, "it looks at its argument");
    Box::leak(Box::new(Inline::within(&code, around).expect("given")))
}

#[test]
fn what_is_around_a_program_runs_with_it_or_gives_up() {
    let _alone = ALONE.lock();
    let engine = common::engine();
    for victim in VICTIMS {
        let plain = FLAGS.map(|flags| call(victim, flags));
        let (closed, missed, counter) = (leaked(), leaked(), Counter::new().expect("a counter"));
        let seen: &[AtomicU64; 2] = Box::leak(Box::default());
        let probe = probe(around(closed, seen.as_ptr()), &counter, missed);
        let id = attach(engine, victim as *const () as usize, Kind::Entry, probe);
        call(victim, 0);
        CALLED.store(0, Ordering::Relaxed);
        for (is_closed, called, ran) in [(0, 0, 6), (1, 6, 0), (0, 0, 6)] {
            closed.store(is_closed, Ordering::Relaxed);
            CALLED.store(0, Ordering::Relaxed);
            seen[1].store(0, Ordering::Relaxed);
            assert_eq!(FLAGS.map(|flags| call(victim, flags)), plain);
            assert_eq!(CALLED.load(Ordering::Relaxed), called);
            assert_eq!(seen[1].load(Ordering::Relaxed), ran);
        }
        let address = core::ptr::from_ref(closed) as u64;
        assert_eq!(seen[0].load(Ordering::Relaxed), address);
        engine.detach(&[id]);
        assert_eq!((counter.take(), missed.load(Ordering::Relaxed)), (19, 0));
    }
}

/// How often the handler has called.
static IN_HANDLER: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_alarm(_: libc::c_int) {
    call(block_sum, 0);
    IN_HANDLER.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_hit_inside_of_one_is_missed() {
    let _alone = ALONE.lock();
    let engine = common::engine();
    let (ran, missed, counter) = (leaked(), leaked(), Counter::new().expect("a counter"));
    let addr = block_sum as *const () as usize;
    call(block_sum, 0);
    let handler = on_alarm as *const () as usize;
    // SAFETY: the handler makes no call but of the victim.
    let before = unsafe { libc::signal(libc::SIGUSR1, handler) };
    // Most of the time is spent in the block.
    let id = attach(
        engine,
        addr,
        Kind::Entry,
        probe(counting(ran, 400_000), &counter, missed),
    );
    CALLED.store(0, Ordering::Relaxed);
    let stop = AtomicBool::new(false);
    // SAFETY: names the calling thread.
    let me = unsafe { libc::pthread_self() };
    let calls = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: the thread waits for this one.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                std::thread::yield_now();
            }
        });
        let mut calls = 0;
        while missed.load(Ordering::Relaxed) < 20 {
            call(block_sum, 0);
            calls += 1;
        }
        stop.store(true, Ordering::Relaxed);
        calls
    });
    // SAFETY: what was there.
    unsafe { libc::signal(libc::SIGUSR1, before) };
    engine.detach(&[id]);
    let all = calls + IN_HANDLER.load(Ordering::Relaxed);
    let hits = counter.take();
    assert_eq!(hits + missed.load(Ordering::Relaxed), all);
    assert_eq!(
        ran.load(Ordering::Relaxed) + CALLED.load(Ordering::Relaxed),
        hits
    );
}

#[test]
fn nothing_runs_on_a_thread_that_is_exempted_for_a_moment() {
    let _alone = ALONE.lock();
    let engine = common::engine();
    let (ran, missed, counter) = (leaked(), leaked(), Counter::new().expect("a counter"));
    let addr = block_sum as *const () as usize;
    let id = attach(
        engine,
        addr,
        Kind::Entry,
        probe(counting(ran, 1), &counter, missed),
    );
    CALLED.store(0, Ordering::Relaxed);
    call(block_sum, 0);
    Engine::exempted(|| {
        call(block_sum, 0);
        Engine::exempted(|| call(block_sum, 0));
        call(block_sum, 0);
    });
    call(block_sum, 0);
    engine.detach(&[id]);
    let runs = ran.load(Ordering::Relaxed) + CALLED.load(Ordering::Relaxed);
    let counts = (runs, counter.take(), missed.load(Ordering::Relaxed));
    assert_eq!(counts, (2, 2, 0));
}

/// A page that only blocks write.
fn page() -> *mut AtomicU64 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    page.cast()
}

unsafe extern "C" fn called_by_data(_: *mut PtRegs, data: *const (), _: *mut Hit) -> u64 {
    // SAFETY: the probe's page.
    unsafe { &*data.cast::<AtomicU64>() }.fetch_add(1, Ordering::Relaxed);
    0
}

#[test]
fn what_a_block_uses_may_go_once_it_is_settled() {
    let _alone = ALONE.lock();
    let engine = common::engine();
    let stop = AtomicBool::new(false);
    let wrong = AtomicU64::new(0);
    let hammer = |victim: unsafe extern "C" fn()| {
        let plain = call(victim, 0);
        while !stop.load(Ordering::Relaxed) {
            if call(victim, 0) != plain {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for victim in VICTIMS.into_iter().chain(VICTIMS) {
            scope.spawn(move || hammer(victim));
        }
        let started = std::time::Instant::now();
        let mut turns = 0;
        while started.elapsed() < std::time::Duration::from_secs(2) {
            let counter = Counter::new().expect("a counter");
            let page = page();
            turns += 1;
            let inline = counting(page, 50 + turns % 2);
            let probe = Probe::new(called_by_data, page.cast_const().cast())
                .needing(Needs::EVERYTHING)
                .counting_hits(counter.hits())
                .inlined(inline);
            let ids = VICTIMS
                .map(|victim| attach(engine, victim as *const () as usize, Kind::Entry, probe));
            wait_for(|| page_count(page) > 100);
            detach_and_settle(engine, &ids);
            assert_eq!(page_count(page), counter.take());
            // SAFETY: nobody uses it: who did would get a SIGSEGV.
            unsafe { libc::munmap(page.cast(), 4096) };
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
}

fn page_count(page: *mut AtomicU64) -> u64 {
    // SAFETY: mapped until the turn's end.
    unsafe { &*page }.load(Ordering::Relaxed)
}

fn detach_and_settle(engine: &dyn Backend, ids: &[HookId]) {
    engine.detach(ids);
    wait_for(|| engine.is_settled());
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}
