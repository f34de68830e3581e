//! Threads hammer functions whose probes come and go: every result is right,
//! and once attached every call is a hit.

mod common;

use std::arch::global_asm;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bpftime_attach::{Engine, Hit, HookId, Kind, Needs, Point, Probe};
use common::{Recorder, module_of, text};

// Functions of several shapes at every offset in a word, so that jumps lie in
// one word, across words, across cache lines.
global_asm!(
    r#"
    .text
    .p2align 6
    .globl hot_functions
hot_functions:
    .irp at, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    .p2align 6
    .skip \at, 0x90
    .type hot_five_\at,@function
hot_five_\at:
    .byte 0x48, 0x8d, 0x84, 0x37, 0x01, 0x00, 0x00, 0x00 # lea rax, [rdi + rsi + 1], eight bytes
    ret
    .size hot_five_\at, . - hot_five_\at
    .p2align 6
    .skip \at, 0x90
    .type hot_push_\at,@function
hot_push_\at:
    push rbx
    push r12
    mov rbx, rdi
    mov r12, rsi
    lea rax, [rbx + r12 + 1]
    pop r12
    pop rbx
    ret
    .size hot_push_\at, . - hot_push_\at
    .p2align 6
    .skip \at, 0x90
    .type hot_mov_\at,@function
hot_mov_\at:
    mov eax, 1
    lea rax, [rdi + rsi + 1]
    ret
    .size hot_mov_\at, . - hot_mov_\at
    .endr
    .p2align 6
    .globl hot_end
hot_end:
    ret
"#
);

unsafe extern "C" {
    fn hot_functions();
    fn hot_end();
}

type Hot = unsafe extern "C" fn(u64, u64) -> u64;

fn hot() -> Vec<usize> {
    let (start, end) = (
        hot_functions as *const () as usize,
        hot_end as *const () as usize,
    );
    let entries = module_of(start).function_entries();
    let hot: Vec<usize> = entries
        .into_iter()
        .filter(|addr| (start..end).contains(addr))
        .collect();
    assert_eq!(hot.len(), 48);
    hot
}

fn call(addr: usize, a: u64, b: u64) -> u64 {
    // SAFETY: the functions above take two words and give one.
    unsafe { std::mem::transmute::<usize, Hot>(addr)(a, b) }
}

fn batch(addrs: &[usize], kinds: &[Kind], probe: Probe) -> Vec<(Point, Probe)> {
    let points = addrs
        .iter()
        .flat_map(|addr| kinds.iter().map(|kind| (*addr, *kind)));
    let point = |(addr, kind)| Point {
        addr,
        kind,
        module: module_of(addr),
    };
    points.map(|at| (point(at), probe)).collect()
}

#[test]
fn toggling_under_running_threads() {
    let engine = common::engine();
    let addrs = hot();
    let recorder = Recorder::leaked();
    let before: Vec<_> = addrs.iter().map(|addr| text(*addr, 16)).collect();
    let done = AtomicBool::new(false);
    let calls = AtomicU64::new(0);
    let mut hooked = 0;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut n = 0;
                while !done.load(Ordering::Relaxed) {
                    for addr in &addrs {
                        if call(*addr, n, 7) != n + 8 {
                            done.store(true, Ordering::Relaxed);
                            panic!("{addr:#x} computed something else");
                        }
                        n += 1;
                    }
                }
                calls.fetch_add(n, Ordering::Relaxed);
            });
        }
        let sets: [&[Kind]; 3] = [
            &[Kind::Entry],
            &[Kind::Return],
            &[Kind::Entry, Kind::Return],
        ];
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut round = 0;
        // A loaded machine takes its time for the rounds.
        while (Instant::now() < deadline || round <= 20) && !done.load(Ordering::Relaxed) {
            let probe = match round % 4 {
                0 => recorder.probe(),
                1 => recorder.light_probe(Needs::VECTORS),
                _ => recorder.light_probe(Needs::LITTLE),
            };
            let attached = engine.attach(&batch(&addrs, sets[round % 3], probe));
            let ids: Vec<HookId> = attached.into_iter().filter_map(Result::ok).collect();
            hooked = ids.len();
            // The others may get no time in between.
            for addr in &addrs {
                assert_eq!(call(*addr, 1, 7), 9, "{addr:#x}");
            }
            engine.detach(&ids);
            round += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(
        hooked > 0 && calls.load(Ordering::Relaxed) > 0 && recorder.hits() > 0,
        "{hooked} hooked, {calls:?} calls, {} hits",
        recorder.hits()
    );
    let after: Vec<_> = addrs.iter().map(|addr| text(*addr, 16)).collect();
    assert_eq!(before, after);
}

#[test]
fn every_call_is_a_hit_once_attached() {
    const CALLS: u64 = 20_000;
    let engine = common::engine();
    let addr = every_call_victim as *const () as usize;
    let (entry, exit) = (Recorder::leaked(), Recorder::leaked());
    let points = [(Kind::Entry, entry), (Kind::Return, exit)].map(|(kind, recorder)| {
        let module = module_of(addr);
        (Point { addr, kind, module }, recorder.probe())
    });
    let ids: Vec<HookId> = engine
        .attach(&points)
        .into_iter()
        .map(|id| id.expect("attached"))
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..CALLS).for_each(|i| assert_eq!(every_call_victim(i), i + 3)));
        }
    });
    assert_eq!((entry.hits(), exit.hits()), (4 * CALLS, 4 * CALLS));
    assert_eq!((entry.missed(), exit.missed()), (0, 0));
    engine.detach(&ids);
}

#[inline(never)]
extern "C" fn every_call_victim(i: u64) -> u64 {
    std::hint::black_box(i) + 3
}

#[test]
fn many_probes_in_attach_order() {
    struct Order(AtomicU64);
    unsafe extern "C" fn digit<const N: u64>(
        _: *mut uapi::PtRegs,
        data: *const (),
        _: *mut Hit,
    ) -> u64 {
        // SAFETY: `data` is the leaked `Order`.
        let order = unsafe { &(*data.cast::<Order>()).0 };
        order.store(order.load(Ordering::Relaxed) * 10 + N, Ordering::Relaxed);
        0
    }
    let engine = common::engine();
    let order: &'static Order = Box::leak(Box::new(Order(AtomicU64::new(0))));
    let data = (&raw const *order).cast();
    let addr = ordered_victim as *const () as usize;
    let at = |kind, callback| common::attach(engine, addr, kind, Probe::new(callback, data));
    let run = || {
        order.0.store(0, Ordering::Relaxed);
        assert_eq!(ordered_victim(4), 8);
        order.0.load(Ordering::Relaxed)
    };
    let first = at(Kind::Entry, digit::<1>);
    let second = at(Kind::Entry, digit::<2>);
    let third = at(Kind::Return, digit::<3>);
    let fourth = at(Kind::Return, digit::<4>);
    let fifth = at(Kind::Entry, digit::<5>);
    assert_eq!(run(), 12534);
    engine.detach(&[second, second, third]);
    assert_eq!(run(), 154);
    engine.detach(&[first, fifth]);
    assert_eq!(run(), 4);
    assert_eq!(
        engine
            .sites()
            .iter()
            .filter(|site| site.addr == addr)
            .count(),
        1
    );
    engine.detach(&[fourth]);
    assert_eq!(run(), 0);
    assert_eq!(
        engine
            .sites()
            .iter()
            .filter(|site| site.addr == addr)
            .count(),
        0
    );
}

#[inline(never)]
extern "C" fn ordered_victim(i: u64) -> u64 {
    std::hint::black_box(i) * 2
}

#[test]
fn nothing_runs_on_an_exempt_thread_or_inside_a_probe() {
    unsafe extern "C" fn nest(_: *mut uapi::PtRegs, data: *const (), _: *mut Hit) -> u64 {
        // SAFETY: `data` is the leaked counter.
        unsafe { &*data.cast::<AtomicU64>() }.fetch_add(nested_victim(1), Ordering::Relaxed);
        0
    }
    let engine = common::engine();
    let sum: &'static AtomicU64 = Box::leak(Box::default());
    let missed: &'static AtomicU64 = Box::leak(Box::default());
    let probe = Probe::new(nest, (&raw const *sum).cast()).counting_misses(missed);
    let addr = nested_victim as *const () as usize;
    let ids = [Kind::Entry, Kind::Return].map(|kind| common::attach(engine, addr, kind, probe));
    assert_eq!(nested_victim(5), 15);
    // Each of the two hits calls the victim, at which both probes are missed.
    assert_eq!(
        (sum.load(Ordering::Relaxed), missed.load(Ordering::Relaxed)),
        (6, 4)
    );
    std::thread::spawn(|| {
        Engine::exempt_thread();
        assert_eq!(nested_victim(5), 15);
    })
    .join()
    .expect("no panic");
    assert_eq!(
        (sum.load(Ordering::Relaxed), missed.load(Ordering::Relaxed)),
        (6, 4)
    );
    engine.detach(&ids);
}

#[inline(never)]
extern "C" fn nested_victim(i: u64) -> u64 {
    std::hint::black_box(i) * 3
}
