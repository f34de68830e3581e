//! Random programs that handle packets, about half of them safe.

use uapi::Insn;
use uapi::helper::*;
use uapi::insn::*;
use uapi::map::BPF_MAP_TYPE_HASH;
use uapi::prog::*;
use vm::ProgramSpec;
use vm::verifier::MapInfo;

use super::checked::packet_fields;
use super::mutate::Stream;
use super::pack::Pack;

const MAP: u32 = 1;
const SIZES: [(u8, i32); 4] = [(BPF_B, 1), (BPF_H, 2), (BPF_W, 4), (BPF_DW, 8)];

/// Between statements r6 is the ctx, r7 and r8 are pointers into the packet,
/// r9 is a number, fp-8 the packet's end and fp-16 a pointer or a number.
struct Builder<'a> {
    stream: &'a Stream,
    prog_type: u32,
    insns: Vec<Insn>,
    /// Calls of the subprogram at the end.
    calls: Vec<usize>,
}

impl Builder<'_> {
    fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn::new(code, dst, src, off, imm));
    }

    fn mov(&mut self, dst: u8, src: u8) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, dst, src, 0, 0);
    }

    fn set(&mut self, dst: u8, n: i32) {
        self.push(BPF_ALU64 | BPF_MOV, dst, 0, 0, n);
    }

    fn add(&mut self, dst: u8, n: i32) {
        self.push(BPF_ALU64 | BPF_ADD, dst, 0, 0, n);
    }

    fn call(&mut self, helper: u32) {
        self.push(BPF_JMP | BPF_CALL, 0, 0, 0, helper as i32);
    }

    fn one_in(&self, n: usize) -> bool {
        self.stream.below(n) == 0
    }

    fn pointer(&self) -> u8 {
        self.stream.pick(&[7, 7, 8])
    }

    fn load_field(&mut self, dst: u8, field: usize) {
        let off = packet_fields(self.prog_type)[field];
        self.push(BPF_LDX | BPF_MEM | BPF_W, dst, 6, off, 0);
    }

    /// r7, r8 and fp-8 as they were at the start.
    fn reload(&mut self) {
        self.load_field(7, 0);
        self.mov(8, 7);
        self.load_field(2, 1);
        self.push(BPF_STX | BPF_MEM | BPF_DW, 10, 2, -8, 0);
    }

    fn statement(&mut self, depth: u32) {
        match self.stream.below(14) {
            0 => {
                let n = self.stream.pick(&[1, 2, 8, 14, 34]);
                self.mov(8, 7);
                self.add(8, if self.one_in(9) { -n } else { n });
            }
            1..=4 if depth < 3 => self.compared(depth),
            5 | 6 => self.access(),
            7 => self.number(),
            8 => self.moved(),
            9 => {
                let p = self.pointer();
                self.push(BPF_STX | BPF_MEM | BPF_DW, 10, p, -16, 0);
                self.push(BPF_LDX | BPF_MEM | BPF_DW, 8, 10, -16, 0);
            }
            10 => self.packet_moves(),
            11 if self.one_in(9) => self.memory_of_helper(7),
            12 => self.meta(),
            _ => {
                let op = self.stream.pick(&[BPF_JEQ, BPF_JNE, BPF_JGT]);
                self.push(BPF_JMP | op | BPF_X, 7, 8, 1, 0);
                self.number();
            }
        }
    }

    /// A comparison with the end and what follows where it went well.
    fn compared(&mut self, depth: u32) {
        let p = self.pointer();
        self.push(BPF_LDX | BPF_MEM | BPF_DW, 2, 10, -8, 0);
        self.mov(3, p);
        let n = self.stream.pick(&[1, 4, 8, 9, 14, 34]);
        self.add(3, n);
        let odd = self.one_in(12);
        let op = self.stream.pick(&[BPF_JGT, BPF_JGE, BPF_JLE, BPF_JLT]);
        // Leaves when the end is before r3.
        let (op, left, right) = match self.stream.below(2) {
            0 if !odd => (self.stream.pick(&[BPF_JGT, BPF_JGE]), 3, 2),
            1 if !odd => (self.stream.pick(&[BPF_JLT, BPF_JLE]), 2, 3),
            _ => (op, 3, 2),
        };
        let at = self.insns.len();
        self.push(BPF_JMP | op | BPF_X, left, right, 0, 0);
        self.reach(p, n);
        for _ in 0..self.stream.below(3) {
            self.statement(depth + 1);
        }
        self.insns[at].off = (self.insns.len() - at - 1) as i16;
    }

    /// An access to one of the `n` bytes at `p`, or so it hopes.
    fn reach(&mut self, p: u8, n: i32) {
        let fits = SIZES.iter().filter(|(_, bytes)| *bytes <= n).count();
        let (size, bytes) = SIZES[self.stream.below(fits)];
        if n >= 4 && self.one_in(5) {
            return self.memory_of_helper(p);
        }
        let top = n - bytes + if self.one_in(20) { 2 } else { 1 };
        let off = self.stream.below(top as usize) as i16;
        match self.stream.below(4) {
            0 => self.push(BPF_ST | BPF_MEM | size, p, 0, off, 5),
            1 => self.push(BPF_STX | BPF_MEM | size, p, 9, off, 0),
            _ => self.push(BPF_LDX | BPF_MEM | size, 9, p, off, 0),
        }
    }

    fn access(&mut self) {
        if self.one_in(30) {
            let p = self.pointer();
            self.reach(p, self.stream.pick(&[1, 8]));
        }
    }

    fn number(&mut self) {
        match self.stream.below(4) {
            0 => self.set(9, self.stream.pick(&[0, 1, 4, -1, 40])),
            1 => self.push(BPF_ALU64 | BPF_LSH, 9, 0, 0, self.stream.pick(&[1, 2])),
            2 => self.push(BPF_ALU64 | BPF_RSH, 9, 0, 0, self.stream.pick(&[8, 58])),
            _ => {
                let mask = self.stream.pick(&[1, 15, 60, 0xff, 0xffff, -1]);
                self.push(BPF_ALU64 | BPF_AND, 9, 0, 0, mask);
            }
        }
    }

    /// A base that is not the packet's start.
    fn moved(&mut self) {
        if !self.one_in(6) {
            let mask = self.stream.pick(&[15, 60, 0xff, 0x7fff]);
            self.push(BPF_ALU64 | BPF_AND, 9, 0, 0, mask);
        }
        self.mov(8, 7);
        let op = if self.one_in(8) { BPF_SUB } else { BPF_ADD };
        self.push(BPF_ALU64 | op | BPF_X, 8, 9, 0, 0);
        if self.one_in(3) {
            self.mov(7, 8);
        }
    }

    /// A helper, or a function, that moves the packet.
    fn packet_moves(&mut self) {
        self.mov(1, 6);
        self.set(2, 0);
        if self.one_in(2) {
            self.calls.push(self.insns.len());
            self.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
        } else {
            self.call(mover(self.prog_type));
        }
        if !self.one_in(12) {
            self.reload();
        }
    }

    fn memory_of_helper(&mut self, p: u8) {
        if self.one_in(2) {
            self.mov(1, p);
            self.set(2, 4);
            self.set(3, 0);
            self.set(4, 0);
            self.set(5, 0);
            self.call(BPF_FUNC_CSUM_DIFF);
        } else {
            let ld = BPF_LD | BPF_IMM | BPF_DW;
            self.push(ld, 1, BPF_PSEUDO_MAP_FD, 0, MAP as i32);
            self.push(0, 0, 0, 0, 0);
            self.mov(2, p);
            self.call(BPF_FUNC_MAP_LOOKUP_ELEM);
        }
    }

    fn meta(&mut self) {
        self.load_field(3, 2);
        self.mov(4, 3);
        self.add(4, 4);
        self.load_field(5, 0);
        let op = self.stream.pick(&[BPF_JGT, BPF_JGE, BPF_JLT]);
        self.push(BPF_JMP | op | BPF_X, 4, 5, 1, 0);
        let off = self.stream.pick(&[0, 0, 1, 3, 4]);
        // Right after the one comparison, over a jump after the other.
        if op == BPF_JLT {
            self.push(BPF_JMP | BPF_JA, 0, 0, 1, 0);
        }
        self.push(BPF_LDX | BPF_MEM | BPF_B, 9, 3, off, 0);
    }
}

/// A helper of two arguments that may move the packet.
fn mover(prog_type: u32) -> u32 {
    match prog_type {
        BPF_PROG_TYPE_XDP => BPF_FUNC_XDP_ADJUST_HEAD,
        _ => BPF_FUNC_SKB_PULL_DATA,
    }
}

pub fn program(stream: &Stream) -> Pack {
    let prog_type = stream.pick(&[BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_SCHED_CLS]);
    let mut builder = Builder {
        stream,
        prog_type,
        insns: Vec::new(),
        calls: Vec::new(),
    };
    builder.mov(6, 1);
    builder.set(9, 1);
    builder.reload();
    for _ in 0..2 + stream.below(8) {
        builder.statement(0);
    }
    builder.set(0, 0);
    builder.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    let sub = builder.insns.len();
    for at in std::mem::take(&mut builder.calls) {
        builder.insns[at].imm = (sub - at - 1) as i32;
        if builder.insns.len() == sub {
            builder.call(mover(prog_type));
            builder.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
        }
    }
    Pack {
        spec: ProgramSpec {
            name: "packet".to_owned(),
            prog_type,
            gpl: true,
            insns: builder.insns,
            ..ProgramSpec::default()
        },
        maps: vec![MapInfo {
            id: MAP,
            map_type: BPF_MAP_TYPE_HASH,
            key_size: 4,
            value_size: 8,
            max_entries: 16,
            ..MapInfo::default()
        }],
        captured: 0,
    }
}
