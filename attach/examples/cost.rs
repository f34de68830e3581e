//! Prints what an empty probe costs, in nanoseconds above the plain call.
#![expect(clippy::print_stdout, reason = "it is a measurement")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use bpftime_attach::{Hit, Inline, Kind, Needs, Probe};

unsafe extern "C" fn empty(_: *mut uapi::PtRegs, _: *const (), _: *mut Hit) -> u64 {
    0
}

#[inline(never)]
extern "C" fn victim(a: u64) -> u64 {
    std::hint::black_box(a) + 1
}

fn nanoseconds_per_call() -> f64 {
    // Short, so that some rounds are not interrupted.
    const CALLS: u32 = 20_000;
    let round = || {
        let started = Instant::now();
        for i in 0..CALLS {
            std::hint::black_box(victim(i.into()));
        }
        started.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..500).map(|_| round()).fold(f64::MAX, f64::min)
}

fn main() {
    let engine = common::engine();
    let addr = victim as *const () as usize;
    let plain = nanoseconds_per_call();
    // What a program that does nothing is compiled to: `xor eax, eax; ret`.
    let inline = Inline::of(&[0x31, 0xc0, 0xc3]).expect("short");
    let probe = Probe::new(empty, std::ptr::null())
        .needing(Needs::LITTLE)
        .inlined(&raw const inline);
    let id = common::attach(engine, addr, Kind::Entry, probe);
    let cost = nanoseconds_per_call() - plain;
    println!("in a block: {cost:.1} ns over {plain:.1}");
    engine.detach(&[id]);
    for needs in [Needs::LITTLE, Needs::VECTORS, Needs::EVERYTHING] {
        let probe = Probe::new(empty, std::ptr::null()).needing(needs);
        for kinds in [
            &[Kind::Entry][..],
            &[Kind::Return],
            &[Kind::Entry, Kind::Return],
        ] {
            let ids: Vec<_> = kinds
                .iter()
                .map(|kind| common::attach(engine, addr, *kind, probe))
                .collect();
            println!(
                "{needs:?} {kinds:?}: {:.1} ns over {plain:.1}",
                nanoseconds_per_call() - plain
            );
            engine.detach(&ids);
        }
    }
    println!("detached: {:.1} ns", nanoseconds_per_call());
}
