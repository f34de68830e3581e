//! Random programs that are about half safe: each statement is what a
//! compiler would write for a typed operation, now and then a bit wrong.

mod objects;

use uapi::Insn;
use uapi::helper::*;
use uapi::insn::*;
use uapi::map::*;
use uapi::prog::*;
use vm::ProgramSpec;
use vm::verifier::MapInfo;

use super::mutate::Stream;
use super::pack::Pack;

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const RING: u32 = 3;
const DATA: u32 = 4;
const RODATA: u32 = 5;

fn map(id: u32, map_type: u32, key: u32, value: u32, entries: u32) -> MapInfo {
    MapInfo {
        id,
        map_type,
        key_size: key,
        value_size: value,
        max_entries: entries,
        ..MapInfo::default()
    }
}

fn maps() -> Vec<MapInfo> {
    let mut rodata = map(RODATA, BPF_MAP_TYPE_ARRAY, 4, 16, 1);
    rodata.map_flags = BPF_F_RDONLY_PROG;
    rodata.rodata = Some((0..16).map(|n| if n < 4 { 0 } else { n * 5 }).collect());
    vec![
        map(HASH, BPF_MAP_TYPE_HASH, 8, 16, 64),
        map(ARRAY, BPF_MAP_TYPE_ARRAY, 4, 32, 4),
        map(RING, BPF_MAP_TYPE_RINGBUF, 0, 0, 4096),
        map(DATA, BPF_MAP_TYPE_ARRAY, 4, 64, 1),
        rodata,
    ]
}

const ALU: [u8; 10] = [
    BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_LSH, BPF_RSH, BPF_XOR, BPF_ARSH, BPF_MOV,
];
const JUMPS: [u8; 11] = [
    BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE, BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE,
    BPF_JSET,
];
const SIZES: [(u8, i16); 4] = [(BPF_B, 1), (BPF_H, 2), (BPF_W, 4), (BPF_DW, 8)];
const LIMITS: [i32; 16] = [
    0,
    1,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    -1,
    i32::MAX,
    i32::MIN,
];

struct Builder<'a> {
    stream: &'a Stream,
    insns: Vec<Insn>,
    /// Functions that may be called from here on, by number.
    callable: std::ops::Range<usize>,
    /// Calls and the function that each is to go to.
    calls: Vec<(usize, usize)>,
}

impl Builder<'_> {
    fn push(&mut self, code: u8, dst: u8, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn::new(code, dst, src, off, imm));
    }

    fn ld_map(&mut self, dst: u8, kind: u8, id: u32, offset: i32) {
        self.push(BPF_LD | BPF_IMM | BPF_DW, dst, kind, 0, id as i32);
        self.push(0, 0, 0, 0, offset);
    }

    fn call(&mut self, helper: u32) {
        self.push(BPF_JMP | BPF_CALL, 0, 0, 0, helper as i32);
    }

    /// r0, r7, r8 and r9 hold numbers between statements; r6 the ctx.
    fn number(&self) -> u8 {
        self.stream.pick(&[0, 7, 8, 9])
    }

    fn limit(&self) -> i32 {
        self.stream.pick(&LIMITS)
    }

    /// Places the jump at `at` to here.
    fn land(&mut self, at: usize) {
        self.insns[at].off = (self.insns.len() - at - 1) as i16;
    }

    fn one_in(&self, n: usize) -> bool {
        self.stream.below(n) == 0
    }

    fn statement(&mut self, depth: u32) {
        let (a, b) = (self.number(), self.number());
        match self.stream.below(20) {
            18 if !self.callable.is_empty() => self.call_function(a, b),
            19 if depth < 2 => self.may_goto(depth),
            0 | 1 => self.arithmetic(a, b),
            2 => self.push(
                BPF_LDX | BPF_MEM | BPF_DW,
                a,
                6,
                8 * self.stream.below(22) as i16,
                0,
            ),
            3 | 4 if depth < 3 => self.branch(a, b, depth),
            5 => self.stack(a),
            6 => self.stack_index(a),
            7 => self.lookup(a, depth),
            8 | 9 => self.global(a, b),
            10 => self.ring(a, depth),
            11 => self.read(a),
            12 if depth < 2 => self.bounded_loop(a, depth),
            13 => {
                self.ld_map(
                    1,
                    BPF_PSEUDO_MAP_VALUE,
                    RODATA,
                    4 * self.stream.below(if self.one_in(9) { 5 } else { 4 }) as i32,
                );
                self.push(BPF_LDX | BPF_MEM | BPF_W, a, 1, 0, 0);
            }
            16 if depth < 2 => self.iterator(a, depth),
            17 if depth < 2 => self.dynptr(a, depth),
            14 => {
                let bits = self.stream.pick(&[16, 32, 64]);
                self.push(
                    BPF_ALU | BPF_END | self.stream.pick(&[0, BPF_X]),
                    a,
                    0,
                    0,
                    bits,
                );
            }
            _ => {
                let off = self.stream.pick(&[0, 8, 16, 32]);
                let class = if off == 32 {
                    BPF_ALU64
                } else {
                    self.stream.pick(&[BPF_ALU, BPF_ALU64])
                };
                self.push(class | BPF_MOV | BPF_X, a, b, off, 0);
            }
        }
    }

    fn arithmetic(&mut self, a: u8, b: u8) {
        let class = self.stream.pick(&[BPF_ALU, BPF_ALU64]);
        let op = self.stream.pick(&ALU);
        if self.one_in(3) {
            self.push(class | op | BPF_X, a, b, 0, 0);
            return;
        }
        let imm = if matches!(op, BPF_LSH | BPF_RSH | BPF_ARSH) {
            self.stream.below(if class == BPF_ALU { 32 } else { 64 }) as i32
        } else {
            self.limit()
        };
        self.push(class | op, a, 0, 0, imm);
    }

    fn branch(&mut self, a: u8, b: u8, depth: u32) {
        let class = self.stream.pick(&[BPF_JMP, BPF_JMP32]);
        let op = self.stream.pick(&JUMPS);
        let at = self.insns.len();
        if self.one_in(3) {
            self.push(class | op | BPF_X, a, b, 0, 0);
        } else {
            let limit = self.limit();
            self.push(class | op, a, 0, 0, limit);
        }
        for _ in 0..1 + self.stream.below(3) {
            self.statement(depth + 1);
        }
        self.land(at);
    }

    /// r1 is the ctx, r2 and r3 numbers, r4 an address on our stack.
    fn call_function(&mut self, a: u8, b: u8) {
        let function = self.callable.start + self.stream.below(self.callable.len());
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 2, a, 0, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 3, b, 0, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 4, 10, 0, 0);
        let slot = -8 * (1 + self.stream.below(4) as i32);
        self.push(BPF_ALU64 | BPF_ADD, 4, 0, 0, slot);
        self.calls.push((self.insns.len(), function));
        self.push(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 0);
    }

    /// Calls the next function, so that none is unreachable.
    fn call_next(&mut self) {
        if !self.callable.is_empty() {
            let all = self.callable.clone();
            self.callable.end = self.callable.start + 1;
            self.call_function(7, 8);
            self.callable = all;
        }
    }

    /// A function of few statements; what it does to r4's target comes first.
    fn function(&mut self) {
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 7, 2, 0, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 8, 3, 0, 0);
        self.push(BPF_LDX | BPF_MEM | BPF_DW, 9, 6, 16, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 0, 2, 0, 0);
        let (size, _) = self.stream.pick(&SIZES);
        match self.stream.below(3) {
            0 => self.push(BPF_LDX | BPF_MEM | size, 8, 4, 0, 0),
            1 => self.push(BPF_STX | BPF_MEM | size, 4, 9, 0, 0),
            _ => {}
        }
        for _ in 0..1 + self.stream.below(4) {
            self.statement(1);
        }
        self.call_next();
        let result = self.number();
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 0, result, 0, 0);
        self.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }

    /// A loop that nothing else need end.
    fn may_goto(&mut self, depth: u32) {
        let top = self.insns.len();
        self.push(BPF_JMP | BPF_JCOND, 0, 0, 0, 0);
        for _ in 0..1 + self.stream.below(2) {
            self.statement(depth + 2);
        }
        let back = top as i64 - self.insns.len() as i64 - 1;
        self.push(BPF_JMP | BPF_JA, 0, 0, back as i16, 0);
        self.land(top);
    }

    fn stack(&mut self, a: u8) {
        let (size, bytes) = self.stream.pick(&SIZES);
        let off = -bytes * (1 + self.stream.below(32 / bytes as usize) as i16);
        match self.stream.below(4) {
            0 => self.push(BPF_STX | BPF_MEM | size, 10, a, off, 0),
            1 => self.push(BPF_ST | BPF_MEM | size, 10, 0, off, 0),
            2 if bytes >= 4 => {
                let op = self.stream.pick(&[0, 0x41, BPF_XCHG, BPF_CMPXCHG]);
                self.push(BPF_STX | BPF_ATOMIC | size, 10, a, off, op);
            }
            _ => self.push(BPF_LDX | BPF_MEM | size, a, 10, off, 0),
        }
    }

    /// Limits `a` to an index, or so it hopes.
    fn bound(&mut self, a: u8, top: i32) -> Option<usize> {
        let slack = if self.one_in(20) { self.limit() } else { 0 };
        if self.one_in(2) {
            self.push(BPF_ALU64 | BPF_AND, a, 0, 0, top.wrapping_add(slack));
            return None;
        }
        let class = if self.one_in(4) { BPF_JMP32 } else { BPF_JMP };
        let op = self.stream.pick(&[BPF_JGT, BPF_JGT, BPF_JGE, BPF_JSGT]);
        self.push(class | op, a, 0, 0, top.wrapping_add(slack));
        Some(self.insns.len() - 1)
    }

    fn stack_index(&mut self, a: u8) {
        let jump = self.bound(a, 15);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0);
        self.push(BPF_ALU64 | BPF_ADD, 2, 0, 0, -16);
        self.push(BPF_ALU64 | BPF_ADD | BPF_X, 2, a, 0, 0);
        match self.stream.below(2) {
            0 => self.push(BPF_LDX | BPF_MEM | BPF_B, a, 2, 0, 0),
            _ => self.push(BPF_STX | BPF_MEM | BPF_B, 2, a, 0, 0),
        }
        if let Some(at) = jump {
            self.land(at);
        }
    }

    fn lookup(&mut self, a: u8, depth: u32) {
        let array = self.one_in(2);
        let (size, value) = if array { (BPF_W, 32) } else { (BPF_DW, 16) };
        self.push(BPF_STX | BPF_MEM | size, 10, a, -8, 0);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0);
        self.push(BPF_ALU64 | BPF_ADD, 2, 0, 0, -8);
        self.ld_map(1, BPF_PSEUDO_MAP_FD, if array { ARRAY } else { HASH }, 0);
        self.call(BPF_FUNC_MAP_LOOKUP_ELEM);
        let check = (!self.one_in(30)).then(|| {
            self.push(BPF_JMP | BPF_JEQ, 0, 0, 0, 0);
            self.insns.len() - 1
        });
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 3, 0, 0, 0);
        let other = self.stream.pick(&[7, 8, 9]);
        self.access(3, other, value);
        if depth < 2 && self.one_in(3) {
            self.push(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0);
            self.statement(depth + 1);
        }
        if let Some(at) = check {
            self.land(at);
        }
        self.push(BPF_ALU64 | BPF_MOV, 0, 0, 0, 1);
    }

    /// Reads or writes some of the `value` bytes that `p` points to.
    fn access(&mut self, p: u8, a: u8, value: i32) {
        let (size, bytes) = self.stream.pick(&SIZES);
        let jump = if self.one_in(2) {
            let jump = self.bound(a, value - i32::from(bytes));
            self.push(BPF_ALU64 | BPF_ADD | BPF_X, p, a, 0, 0);
            jump
        } else {
            None
        };
        let off = if jump.is_some() || !self.one_in(3) {
            0
        } else {
            bytes * self.stream.below(value as usize / bytes as usize + 1) as i16
                / if self.one_in(9) { 1 } else { 2 }
        };
        match self.stream.below(4) {
            0 => self.push(BPF_LDX | BPF_MEM | size, a, p, off, 0),
            1 => self.push(BPF_STX | BPF_MEM | size, p, a, off, 0),
            2 if bytes < 8 => self.push(BPF_LDX | BPF_MEMSX | size, a, p, off, 0),
            // Atomics have to be aligned, mostly.
            _ if jump.is_some() && !self.one_in(9) => {
                self.push(BPF_LDX | BPF_MEM | size, a, p, off, 0);
            }
            _ => {
                let off = if self.one_in(9) { off } else { off & !7 };
                let fetch = self.stream.pick(&[0, 1]);
                self.push(BPF_STX | BPF_ATOMIC | BPF_DW, p, a, off, fetch);
            }
        }
        if let Some(at) = jump {
            self.land(at);
        }
    }

    fn global(&mut self, a: u8, b: u8) {
        let offset = self.stream.below(40) as i32;
        self.ld_map(4, BPF_PSEUDO_MAP_VALUE, DATA, offset);
        let a = if a == 0 { 7 } else { a };
        self.access(4, a, 64 - offset - i32::from(b == 0));
    }

    fn ring(&mut self, a: u8, depth: u32) {
        self.ld_map(1, BPF_PSEUDO_MAP_FD, RING, 0);
        self.push(BPF_ALU64 | BPF_MOV, 2, 0, 0, 24);
        self.push(BPF_ALU64 | BPF_MOV, 3, 0, 0, 0);
        self.call(BPF_FUNC_RINGBUF_RESERVE);
        let at = self.insns.len();
        if !self.one_in(30) {
            self.push(BPF_JMP | BPF_JEQ, 0, 0, 0, 0);
        }
        self.push(BPF_STX | BPF_MEM | BPF_DW, 10, 0, -40, 0);
        let words = if self.one_in(9) { 4 } else { 3 };
        let off = 8 * self.stream.below(words) as i16;
        self.push(BPF_STX | BPF_MEM | BPF_DW, 0, a, off, 0);
        if depth < 2 && self.one_in(4) {
            self.push(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0);
            self.statement(depth + 2);
        }
        self.push(BPF_LDX | BPF_MEM | BPF_DW, 1, 10, -40, 0);
        self.push(BPF_ALU64 | BPF_MOV, 2, 0, 0, 0);
        if !self.one_in(30) {
            let end = self
                .stream
                .pick(&[BPF_FUNC_RINGBUF_SUBMIT, BPF_FUNC_RINGBUF_DISCARD]);
            self.call(end);
        }
        if self.insns[at].class() == BPF_JMP {
            self.land(at);
        }
        self.push(BPF_ALU64 | BPF_MOV, 0, 0, 0, 2);
    }

    fn read(&mut self, a: u8) {
        let a = if a == 0 { 8 } else { a };
        let jump = self.bound(a, 31);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 1, 10, 0, 0);
        self.push(BPF_ALU64 | BPF_ADD, 1, 0, 0, -32);
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, 2, a, 0, 0);
        self.push(BPF_ALU64 | BPF_MOV, 3, 0, 0, 0);
        let helper = self
            .stream
            .pick(&[BPF_FUNC_PROBE_READ_USER, BPF_FUNC_PROBE_READ_USER_STR]);
        self.call(helper);
        if let Some(at) = jump {
            self.land(at);
        }
        self.push(BPF_ALU64 | BPF_MOV | BPF_X, a, 0, 0, 0);
        if self.one_in(2) {
            self.push(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0);
        }
    }

    fn bounded_loop(&mut self, a: u8, depth: u32) {
        let a = if a == 0 { 9 } else { a };
        self.push(BPF_ALU64 | BPF_MOV, a, 0, 0, 0);
        let top = self.insns.len();
        self.statement(depth + 2);
        self.push(BPF_ALU64 | BPF_ADD, a, 0, 0, 1);
        let back = top as i64 - self.insns.len() as i64 - 1;
        let op = self.stream.pick(&[BPF_JLT, BPF_JNE, BPF_JSLT]);
        self.push(
            BPF_JMP | op,
            a,
            0,
            back as i16,
            self.stream.pick(&[3, 8, 20]),
        );
    }
}

/// A program of up to a few dozen statements.
pub fn program(stream: &Stream) -> Pack {
    let count = 2 + stream.below(8);
    let mut builder = Builder {
        stream,
        insns: Vec::new(),
        callable: 0..stream.below(3),
        calls: Vec::new(),
    };
    builder.push(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0);
    for number in [0, 7, 8, 9] {
        if builder.one_in(2) {
            builder.push(
                BPF_LDX | BPF_MEM | BPF_DW,
                number,
                6,
                8 * i16::from(number),
                0,
            );
        } else {
            let start = builder.limit();
            builder.push(BPF_ALU64 | BPF_MOV, number, 0, 0, start);
        }
    }
    for _ in 0..count {
        builder.statement(0);
    }
    builder.call_next();
    builder.push(BPF_ALU64 | BPF_MOV, 0, 0, 0, 0);
    builder.push(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    let mut starts = Vec::new();
    for number in builder.callable.clone() {
        builder.callable.start = number + 1;
        starts.push(builder.insns.len());
        builder.function();
    }
    for (at, function) in std::mem::take(&mut builder.calls) {
        builder.insns[at].imm = starts[function] as i32 - at as i32 - 1;
    }
    let spec = ProgramSpec {
        name: "generated".to_owned(),
        prog_type: BPF_PROG_TYPE_KPROBE,
        gpl: true,
        insns: builder.insns,
        ..ProgramSpec::default()
    };
    Pack {
        spec,
        maps: maps(),
        captured: 0,
    }
}
