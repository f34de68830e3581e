//! Look-ups in arrays, which the JIT does itself: the same as the helper's,
//! for every key, stride and CPU.

use std::ptr;

use bpftime_vm::asm;
use bpftime_vm::interp::Interpreter;
use bpftime_vm::jit::{CompiledProgram, Optimisations};
use bpftime_vm::link::{ArrayLayout, CpuLayout, HelperFn, Linker, Run, TailCallFn};

use crate::arch::clobber;
use crate::common::{Left, leave, program, variants};

/// What the programs here run with.
#[repr(C)]
pub struct State {
    pub layout: *const ArrayLayout,
    pub calls: u64,
    pub cpu: u32,
}

/// Map 7 is an array; helper 1 looks into it and helper 3 clobbers.
pub struct Arrays<'a>(pub &'a ArrayLayout);

impl Linker for Arrays<'_> {
    fn map(&self, id: u32) -> Option<u64> {
        (id == 7 || id == 8).then_some(0x7000_0000_0000 + u64::from(id))
    }

    fn array(&self, id: u32) -> Option<ArrayLayout> {
        (id == 7).then_some(*self.0)
    }

    fn map_value(&self, _: u32, _: u32) -> Option<u64> {
        None
    }

    fn helper(&self, id: u32) -> Option<HelperFn> {
        match id {
            1 => Some(look_up),
            3 => Some(clobber),
            _ => None,
        }
    }

    fn kfunc(&self, _: u32) -> Option<HelperFn> {
        None
    }

    fn tail_call(&self) -> TailCallFn {
        no_target
    }
}

unsafe extern "C" fn no_target(_: u64, _: u64, _: *mut Run) -> *const u8 {
    ptr::null()
}

unsafe extern "C" fn look_up(_: u64, key: u64, _: u64, _: u64, _: u64, run: *mut Run) -> u64 {
    // SAFETY: these programs run with a `State`, whose layout outlives them.
    let state = unsafe { &mut *run.cast::<State>() };
    state.calls += 1;
    // SAFETY: as above.
    let layout = unsafe { &*state.layout };
    // SAFETY: the program passes the address of a key.
    let index = unsafe { (key as *const u32).read_unaligned() };
    let start = match layout.cpus {
        Some(cpus) if state.cpu >= cpus.count => return 0,
        Some(cpus) => layout.base + u64::from(state.cpu) * cpus.stride,
        None => layout.base,
    };
    if index >= layout.max_entries {
        return 0;
    }
    start + u64::from(index) * u64::from(layout.stride)
}

/// Runs a program in both engines with all choices of optimisations; what it
/// leaves, and how often the JIT with all of them called the helper.
fn check(text: &str, layout: &ArrayLayout, cpu: u32, memory: &[u8]) -> (Left, u64) {
    let insns = asm::assemble(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let program = program(insns, bpftime_vm::Facts::default());
    let state = || State {
        layout,
        calls: 0,
        cpu,
    };
    let mut interpreted_state = state();
    let interpreter = Interpreter::new(&program, &Arrays(layout)).expect("links");
    let run = (&raw mut interpreted_state).cast();
    // SAFETY: the programs touch their stack, the ctx and elements only.
    let interpreted = leave(memory, |ctx| unsafe { interpreter.run(ctx, run) });
    let mut calls = 0;
    let all = (Optimisations::ALL, "everything".to_owned());
    for (optimisations, what) in variants().chain([all]) {
        let compiled = CompiledProgram::compile_with(&program, &Arrays(layout), &optimisations);
        let mut state = state();
        let run = (&raw mut state).cast();
        let compiled = compiled.expect("links");
        // SAFETY: as above.
        let left = leave(memory, |ctx| unsafe { compiled.run(ctx, run) });
        assert_eq!(left, interpreted, "{what}: {text}");
        calls = state.calls;
    }
    (interpreted, calls)
}

const PLAIN: ArrayLayout = ArrayLayout {
    base: 0x1234_5678_9abc,
    stride: 8,
    max_entries: 10,
    cpus: None,
};

const BY_KEY: &str = "r1 = *(u32 *)(r1 + 0)\n*(u32 *)(r10 - 4) = r1\nr2 = r10\nr2 += -4
    r1 = map[7]\ncall 1\nexit";

fn found(layout: &ArrayLayout, cpu: u32, key: u32) -> u64 {
    let (left, calls) = check(BY_KEY, layout, cpu, &key.to_le_bytes());
    assert_eq!(calls, 0, "the JIT looks up by itself");
    left.r0
}

#[test]
fn keys_below_the_number_of_elements_have_one() {
    for stride in [1, 2, 4, 8, 16, 24, 1000, 1 << 20] {
        let layout = ArrayLayout { stride, ..PLAIN };
        let at = |key: u64| PLAIN.base + key * u64::from(stride);
        assert_eq!(found(&layout, 0, 0), at(0));
        assert_eq!(found(&layout, 0, 3), at(3));
        assert_eq!(found(&layout, 0, 9), at(9));
        for key in [10, 11, i32::MAX as u32, 1 << 31, u32::MAX] {
            assert_eq!(found(&layout, 0, key), 0);
        }
    }
    // As many as there can be: the comparison has no sign.
    let layout = ArrayLayout {
        max_entries: u32::MAX,
        ..PLAIN
    };
    assert_eq!(found(&layout, 0, 1 << 31), PLAIN.base + (8 << 31));
    assert_eq!(found(&layout, 0, u32::MAX), 0);
}

#[test]
fn every_cpu_has_its_own() {
    let cpus = CpuLayout {
        cpu_at: std::mem::offset_of!(State, cpu) as u32,
        count: 4,
        stride: 128,
    };
    let layout = ArrayLayout {
        cpus: Some(cpus),
        ..PLAIN
    };
    assert_eq!(found(&layout, 0, 0), PLAIN.base);
    assert_eq!(found(&layout, 3, 9), PLAIN.base + 3 * 128 + 9 * 8);
    assert_eq!(found(&layout, 3, 10), 0);
    for nobody in [4, i32::MAX as u32, u32::MAX] {
        assert_eq!(found(&layout, nobody, 1), 0);
    }
}

#[test]
fn what_is_not_known_to_be_an_array_is_called() {
    let (left, calls) = check(&BY_KEY.replace('7', "8"), &PLAIN, 0, &[2, 0, 0, 0]);
    assert_eq!((left.r0, calls), (PLAIN.base + 16, 1));
    // Which map it is depends on the way here.
    let text = "r6 = r1\nr1 = map[7]\nr2 = *(u32 *)(r6 + 0)\nif r2 != 2 goto +2\nr1 = map[8]
        r2 = r6\ncall 1\nexit";
    let (left, calls) = check(text, &PLAIN, 0, &[2, 0, 0, 0]);
    assert_eq!((left.r0, calls), (PLAIN.base + 16, 1));
    // Too far apart for one multiplication.
    let layout = ArrayLayout {
        stride: 1 << 31,
        ..PLAIN
    };
    let (left, calls) = check(BY_KEY, &layout, 0, &[2, 0, 0, 0]);
    assert_eq!((left.r0, calls), (PLAIN.base + (2 << 31), 1));
}

#[test]
fn values_survive_that_wait_for_their_use() {
    // r6 to r9 stand for sums, loads and shifts of what is in r0 to r5.
    let text = "r0 = *(u32 *)(r1 + 0)\nr2 = r1\nr3 = 77\nr3 += r0\nr6 = r1\nr6 += 8\nr7 = *(u8 *)(r1 + 4)
        r8 = *(u8 *)(r1 + 5)\nr8 <<= 8\nr9 = r3\nr9 <<= 13\nr1 = map[7]\ncall 1
        r8 |= r7\n*(u64 *)(r6 + 0) = r8\n*(u64 *)(r6 + 8) = r9\nr1 = map[8]\nr2 = r6\ncall 3\nr0 += r8\nexit";
    let memory: Vec<u8> = (0..24)
        .map(|n| if n > 0 && n < 4 { 0 } else { n + 2 })
        .collect();
    let (left, _) = check(text, &PLAIN, 0, &memory);
    assert_eq!(left.r0, 99 + 0x0706);
    assert_eq!(left.memory[8..16], 0x0706u64.to_le_bytes());
    assert_eq!(left.memory[16..24], (79u64 << 13).to_le_bytes());
}

#[test]
fn keys_are_what_memory_holds() {
    let cases = [
        // The register that was stored changes afterwards.
        ("*(u32 *)(r10 - 4) = r3\nr3 += 1\nr1 = r3", 0x0304),
        (
            "*(u32 *)(r10 - 4) = r3\nr0 = r3\nr3 = 9\nr3 <<= 2\nr0 /= 3",
            0x0304,
        ),
        // So does what was stored: in part, elsewhere, by another way.
        ("*(u32 *)(r10 - 4) = r3\n*(u8 *)(r10 - 4) = 1", 0x0301),
        ("*(u32 *)(r10 - 4) = r3\n*(u32 *)(r10 - 8) = r3", 0x0304),
        (
            "r4 = r10\n*(u32 *)(r10 - 4) = r3\n*(u8 *)(r4 - 4) = 2",
            0x0302,
        ),
        (
            "r4 = 5\n*(u32 *)(r10 - 4) = r3\nlock *(u32 *)(r10 - 4) += w4",
            0x0309,
        ),
        (
            "*(u32 *)(r10 - 4) = r3\nr4 = *(u32 *)(r10 - 4)\nr4 += 6\n*(u32 *)(r10 - 4) = r4",
            0x030a,
        ),
        ("*(u32 *)(r10 - 4) = r3\nr6 = 0\ncall 3\nr6 += 1", 0x0304),
        // The lower half is the key.
        ("r4 = 0x700000002 ll\n*(u32 *)(r10 - 4) = r4", 2),
        (
            "r4 = r3\nr4 <<= 32\nr4 += r3\n*(u32 *)(r10 - 4) = r4\nif r4 != 0 goto +0",
            0x0304,
        ),
        ("w4 = w3\nw4 -= 0x300\n*(u32 *)(r10 - 4) = r4", 4),
        // Small enough to need no check, and just not.
        ("r4 = *(u8 *)(r1 + 0)\n*(u32 *)(r10 - 4) = r4", 4),
    ];
    for (store, key) in cases {
        let text = format!(
            "r3 = *(u16 *)(r1 + 0)\n{store}\nr2 = r10\nr2 += -4\nr1 = map[7]\ncall 1\nexit"
        );
        for max_entries in [1, 4, 5, 0xff, 0x100, 0x304, 0x305, 0x1_0000] {
            let layout = ArrayLayout {
                max_entries,
                ..PLAIN
            };
            let (left, _) = check(&text, &layout, 0, &[4, 3]);
            let expected = if key < max_entries {
                PLAIN.base + 8 * u64::from(key)
            } else {
                0
            };
            assert_eq!(left.r0, expected, "{max_entries}: {text}");
        }
    }
}
