//! Programs that differ from a good one in one instruction: where a verifier's
//! holes are. It knows no verdicts.

use std::cell::Cell;

use uapi::Insn;
use uapi::insn::*;

/// A deterministic stream of numbers (xorshift64*).
pub struct Stream(Cell<u64>);

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream(Cell::new(seed | 1))
    }

    pub fn next(&self) -> u64 {
        let mut n = self.0.get();
        n ^= n >> 12;
        n ^= n << 25;
        n ^= n >> 27;
        self.0.set(n);
        n.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NUMBERS: [i32; 24] = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    15,
    16,
    31,
    32,
    63,
    64,
    255,
    256,
    512,
    4096,
    -1,
    -2,
    -8,
    -512,
    i32::MIN,
    i32::MAX,
];

fn nudge(stream: &Stream, n: i32) -> i32 {
    match stream.below(4) {
        0 => n.wrapping_add(stream.pick(&[1, -1, 2, -2, 4, -4, 8, -8, 16, -16])),
        1 => n.wrapping_neg(),
        2 => n.wrapping_mul(2),
        _ => stream.pick(&NUMBERS),
    }
}

/// Changes one instruction of `insns`.
pub fn mutate(stream: &Stream, insns: &mut [Insn]) {
    let at = stream.below(insns.len());
    let mut insn = insns[at];
    let register = (stream.next() % 11) as u8;
    match stream.below(12) {
        0 => insn.regs = (insn.regs & 0xf0) | register,
        1 => insn.regs = (insn.regs & 0x0f) | (register << 4),
        2 => insn.off = nudge(stream, insn.off.into()) as i16,
        3 | 4 => insn.imm = nudge(stream, insn.imm),
        5 => {
            let ops = [
                BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_MOD,
                BPF_XOR, BPF_MOV, BPF_ARSH, BPF_JSLE,
            ];
            insn.code = (insn.code & 0x0f) | stream.pick(&ops);
        }
        6 => insn.code ^= BPF_X,
        // 64 to 32 bits and back.
        7 => match insn.class() {
            BPF_ALU => insn.code = (insn.code & !7) | BPF_ALU64,
            BPF_ALU64 => insn.code = (insn.code & !7) | BPF_ALU,
            BPF_JMP => insn.code = (insn.code & !7) | BPF_JMP32,
            BPF_JMP32 => insn.code = (insn.code & !7) | BPF_JMP,
            _ => insn.code = (insn.code & !BPF_DW) | stream.pick(&[BPF_B, BPF_H, BPF_W, BPF_DW]),
        },
        8 => insn = insns[stream.below(insns.len())],
        9 => insn = Insn::new(BPF_JMP | BPF_JA, 0, 0, 0, 0),
        10 => {
            let other = (at + 1) % insns.len();
            insn = insns[other];
            insns[other] = insns[at];
        }
        _ => {
            let plain = [
                Insn::new(BPF_ALU64 | BPF_MOV, register, 0, 0, stream.pick(&NUMBERS)),
                Insn::new(BPF_ALU64 | BPF_MOV | BPF_X, register, insn.dst(), 0, 0),
                Insn::new(BPF_STX | BPF_MEM | BPF_DW, 10, register, -8, 0),
                Insn::new(BPF_LDX | BPF_MEM | BPF_DW, register, 10, -8, 0),
                Insn::new(BPF_ALU64 | BPF_ADD | BPF_X, insn.dst(), register, 0, 0),
            ];
            insn = stream.pick(&plain);
        }
    }
    insns[at] = insn;
}
