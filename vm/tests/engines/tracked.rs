//! Random programs with many addresses in few registers, so that values that
//! wait for their use meet: the JIT leaves what the interpreter leaves,
//! whatever optimisations come together.

use bpftime_vm::interp::Interpreter;
use bpftime_vm::jit::{CompiledProgram, Optimisations};
use bpftime_vm::link::{ArrayLayout, CpuLayout};

use crate::bulk::Stream;
use crate::common::{assemble, variants};
use crate::lookup::{Arrays, State};
use crate::tracked_maker::{COUNTER, CTX, Maker};

const PROGRAMS: u64 = 2000;

#[repr(align(64))]
struct Memory([u8; CTX as usize]);

fn run(start: impl Fn(*mut u8) -> u64, memory: &mut Memory) -> (u64, Vec<u8>) {
    for (at, byte) in (0..).zip(&mut memory.0) {
        *byte = (at * 7 + 3) as u8;
    }
    memory.0[COUNTER as usize..].fill(0);
    let r0 = start(memory.0.as_mut_ptr());
    (r0, memory.0.to_vec())
}

fn mixed(stream: &mut Stream) -> Optimisations {
    let mut mixed = Optimisations::NONE;
    for name in Optimisations::NAMES {
        *mixed.switch(name).expect("a name") = stream.below(4) > 0;
    }
    mixed
}

#[test]
fn waiting_values_are_what_the_interpreter_computes() {
    let mut memory = Memory([0; CTX as usize]);
    let all: Vec<_> = variants().map(|(chosen, _)| chosen).collect();
    for seed in 1..=PROGRAMS {
        let text = Maker::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).whole();
        let mut stream = Stream(seed | 1 << 40);
        stream.below(2);
        let layout = ArrayLayout {
            base: 0x7000_1234_5000,
            stride: stream.pick(&[1, 2, 4, 8, 16, 24, 4096]),
            max_entries: stream.pick(&[1, 3, 4, 7, 8, 9, 256, 65536, 1 << 31, u32::MAX]),
            cpus: (stream.below(3) == 0).then_some(CpuLayout {
                cpu_at: std::mem::offset_of!(State, cpu) as u32,
                count: 4,
                stride: 0x10000,
            }),
        };
        let linker = Arrays(&layout);
        let cpu = stream.below(5) as u32;
        let mut state = State {
            layout: &layout,
            calls: 0,
            cpu,
        };
        let state = (&raw mut state).cast();
        let program = assemble(&text);
        let interpreter = Interpreter::new(&program, &linker).expect("links");
        // SAFETY: the program touches its stack and ctx only.
        let expected = run(|ctx| unsafe { interpreter.run(ctx, state) }, &mut memory);
        let compiled = [
            CompiledProgram::compile(&program, &linker),
            CompiledProgram::compile_for_baseline(&program, &linker),
            CompiledProgram::compile_with(&program, &linker, &all[seed as usize % all.len()]),
            CompiledProgram::compile_with(&program, &linker, &mixed(&mut stream)),
        ];
        for (which, compiled) in compiled.into_iter().enumerate() {
            let compiled = compiled.expect("compiles");
            // SAFETY: as above.
            let left = run(|ctx| unsafe { compiled.run(ctx, state) }, &mut memory);
            assert!(
                left == expected,
                "program {seed}, way {which}, {layout:?}, cpu {cpu}\n{text}\n{left:?}\n{expected:?}"
            );
        }
    }
}
