//! Pointers into packets beside the kernel's verdict: every comparison with
//! the end, and random programs.

use uapi::Insn;
use uapi::insn::*;
use uapi::prog::*;

use super::contexts::{Both, program};
use super::mutate::{Stream, mutate};
use super::oracle::{Tally, kernel, number};
use super::packet_programs;

const JUMPS: [u8; 6] = [BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JEQ, BPF_JNE];
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const DATA_META: i16 = 8;

const fn load(dst: u8, field: i16) -> Insn {
    Insn::new(BPF_LDX | BPF_MEM | BPF_W, dst, 1, field, 0)
}

const fn mov(dst: u8, src: u8) -> Insn {
    Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0)
}

const fn add(dst: u8, n: i32) -> Insn {
    Insn::new(BPF_ALU64 | BPF_ADD, dst, 0, 0, n)
}

const RETURN_0: [Insn; 2] = [
    Insn::new(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0),
    Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
];

/// Loads and stores around the place that was compared.
fn accesses(compared: i16) -> Vec<Insn> {
    let mut all = Vec::new();
    for off in [-8, -1, 0, compared - 1, compared, compared + 1] {
        for size in [BPF_B, BPF_DW] {
            for pointer in [2, 4] {
                all.push(Insn::new(BPF_LDX | BPF_MEM | size, 0, pointer, off, 0));
            }
            all.push(Insn::new(BPF_ST | BPF_MEM | size, 2, 0, off, 0));
        }
    }
    all
}

#[test]
fn every_comparison_with_the_end_tells_what_the_kernels_does() {
    let Some(mut both) = Both::new() else { return };
    for (start, end) in [(DATA, DATA_END), (DATA_META, DATA), (DATA, DATA_META)] {
        for n in [-1, 0, 1, 8, 0xffff] {
            let before = [load(2, start), load(3, end), mov(4, 2), add(4, n)];
            for (class, op) in [BPF_JMP, BPF_JMP32].into_iter().zip([JUMPS; 2]) {
                for (op, (left, right)) in
                    op.into_iter().flat_map(|op| [(op, (4, 3)), (op, (3, 4))])
                {
                    for access in accesses(n as i16) {
                        for taken in [false, true] {
                            // The access, then the end; or over it and the end to the access.
                            let over = if taken { 2 } else { 1 };
                            let jump = Insn::new(class | op | BPF_X, left, right, over, 0);
                            let tail = if taken {
                                vec![RETURN_0[0], RETURN_0[1], access, RETURN_0[0], RETURN_0[1]]
                            } else {
                                vec![access, RETURN_0[0], RETURN_0[1]]
                            };
                            let insns = [&before[..], &[jump], &tail].concat();
                            both.ask(&program(BPF_PROG_TYPE_XDP, 0, 0, &insns));
                        }
                    }
                }
            }
        }
    }
    both.finish();
}

#[test]
fn no_packet_program_that_the_kernel_refuses_is_accepted() {
    let Some(mut kernel) = kernel() else { return };
    let stream = Stream::new(0x0bad_79b9_7f4a_7c15 ^ number("BPFTIME_SEED", 1));
    let mut tally = Tally::default();
    for _ in 0..number("BPFTIME_GENERATED", 1000) {
        let pack = packet_programs::program(&stream);
        tally.ask(&mut kernel, &pack);
        let mut mutant = pack.clone();
        mutate(&stream, &mut mutant.spec.insns);
        tally.ask(&mut kernel, &mutant);
    }
    tally.finish();
}
