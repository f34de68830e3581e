//! Makes random programs with many addresses: copies of pointers, sums of
//! them and bounded numbers, in few registers. What each register may be is
//! followed while the program is made, so that it touches nothing but its
//! memory. Here are single instructions; `tracked_shapes` has the rest.

use std::fmt::Write;

use crate::bulk::Stream;

/// Bytes of ctx; the last are for what registers hold at the end.
pub const CTX: i64 = 256;
pub const ROOM: i64 = CTX - 80;
/// Rounds of all loops so far.
pub const COUNTER: i64 = CTX - 8;
/// Bytes of stack.
pub const STACK: i64 = 64;

/// What a register may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// At most so much; addresses of ctx are numbers too, and the same in
    /// each run.
    Number(u64),
    /// So far from the beginning of ctx.
    Ctx(i64, i64),
    /// So far below r10.
    Stack(i64),
    /// Depends on where the stack is: must not be seen.
    Secret,
}

pub const ANY: Held = Held::Number(u64::MAX);

impl Held {
    pub fn joined(self, other: Held) -> Held {
        match (self, other) {
            _ if self == other => self,
            (Held::Secret | Held::Stack(_), _) | (_, Held::Secret | Held::Stack(_)) => Held::Secret,
            (Held::Number(a), Held::Number(b)) => Held::Number(a.max(b)),
            _ => ANY,
        }
    }

    pub fn is_secret(self) -> bool {
        matches!(self, Held::Secret | Held::Stack(_))
    }
}

/// A program being made.
pub struct Maker {
    pub stream: Stream,
    pub text: String,
    /// Of r0 to r8; r9 is ctx.
    pub held: [Held; 9],
    /// Registers that this program uses.
    pub few: Vec<usize>,
    pub labels: usize,
    /// Whether there are calls.
    pub calls: bool,
}

pub const SIZES: [(&str, i64); 4] = [("8", 1), ("16", 2), ("32", 4), ("64", 8)];

impl Maker {
    pub fn new(seed: u64) -> Maker {
        let mut stream = Stream(seed);
        let count = 3 + stream.below(4);
        let mut all: Vec<usize> = (0..9).collect();
        let few = (0..count)
            .map(|_| all.swap_remove(stream.below(all.len())))
            .collect();
        Maker {
            stream,
            text: "r9 = r1\n".to_owned(),
            held: [ANY; 9],
            few,
            labels: 0,
            calls: seed & 2 != 0,
        }
    }

    pub fn emit(&mut self, line: &str) {
        writeln!(self.text, "{line}").expect("a string takes all");
    }

    pub fn reg(&mut self) -> usize {
        self.few[self.stream.below(self.few.len())]
    }

    pub fn imm(&mut self) -> i64 {
        match self.stream.below(4) {
            0 => self.stream.below(16) as i64,
            1 => -(self.stream.below(16) as i64),
            2 => self.stream.pick(&[
                0x7fff_ffff,
                -0x8000_0000,
                0x3fff_fff8,
                0x4000_0000,
                255,
                65535,
                -1,
                31,
                32,
                63,
                8,
                24,
                128,
            ]),
            _ => i64::from(self.stream.below(1 << 32) as u32 as i32),
        }
    }

    /// A number, not an address that moves between runs.
    pub fn open(&mut self, reg: usize) {
        if self.held[reg].is_secret() {
            let imm = self.imm();
            self.emit(&format!("r{reg} = {imm}"));
            self.held[reg] = ANY;
        }
    }

    /// A register that is an address and where it may lead with so many bytes.
    pub fn address(&mut self, bytes: i64) -> (String, bool) {
        let known: Vec<usize> = self
            .few
            .iter()
            .copied()
            .filter(|&reg| match self.held[reg] {
                Held::Ctx(low, high) => low > -200 && high < 200,
                Held::Stack(_) => true,
                _ => false,
            })
            .collect();
        match self.stream.below(8) {
            0 => {
                let off = self.stream.below((ROOM - bytes) as usize);
                (format!("(r9 + {off})"), false)
            }
            1 => {
                let off = -STACK + self.stream.below((STACK - bytes + 1) as usize) as i64;
                (format!("(r10 - {})", -off), true)
            }
            _ if !known.is_empty() => {
                let reg = self.stream.pick(&known);
                match self.held[reg] {
                    Held::Ctx(low, high) if high - low + bytes < ROOM => {
                        let most = ROOM - bytes - high;
                        let off = -low + self.stream.below((most + low) as usize) as i64;
                        (plus(reg, off), false)
                    }
                    Held::Stack(at) => {
                        let off =
                            at - STACK + self.stream.below((STACK - bytes + 1) as usize) as i64;
                        (plus(reg, off), true)
                    }
                    _ => self.address(bytes),
                }
            }
            _ => {
                self.point();
                self.address(bytes)
            }
        }
    }

    /// Makes a register an address.
    pub fn point(&mut self) {
        let reg = self.reg();
        match self.stream.below(3) {
            0 => {
                self.emit(&format!("r{reg} = r10"));
                self.held[reg] = Held::Stack(0);
            }
            1 => {
                self.emit(&format!("r{reg} = r9"));
                self.held[reg] = Held::Ctx(0, 0);
            }
            _ => {
                self.bound();
                let by = self.reg();
                self.emit(&format!("r{reg} = r9"));
                self.held[reg] = Held::Ctx(0, 0);
                self.add(reg, by);
            }
        }
    }

    /// Makes a register a small number.
    pub fn bound(&mut self) {
        let reg = self.reg();
        self.open(reg);
        let most = self.stream.pick(&[1u64, 3, 7, 15, 8, 10]);
        let letter = self.stream.pick(&["r", "w"]);
        self.emit(&format!("{letter}{reg} &= {most}"));
        self.held[reg] = Held::Number(most);
    }

    /// `dst += src`, both of 64 bits.
    pub fn add(&mut self, dst: usize, src: usize) {
        self.emit(&format!("r{dst} += r{src}"));
        self.held[dst] = match (self.held[dst], self.held[src]) {
            (Held::Ctx(low, high), Held::Number(most))
            | (Held::Number(most), Held::Ctx(low, high))
                if most < 100 =>
            {
                Held::Ctx(low, high + most as i64)
            }
            (Held::Number(a), Held::Number(b)) => a.checked_add(b).map_or(ANY, Held::Number),
            (a, b) if a.is_secret() || b.is_secret() => Held::Secret,
            _ => ANY,
        };
    }

    pub fn copy(&mut self) {
        let (dst, src) = (self.reg(), self.reg());
        if self.stream.below(3) > 0 {
            self.emit(&format!("r{dst} = r{src}"));
            self.held[dst] = self.held[src];
        } else {
            self.emit(&format!("w{dst} = w{src}"));
            self.held[dst] = match self.held[src] {
                Held::Number(most) => Held::Number(most.min(u32::MAX.into())),
                held if held.is_secret() => Held::Secret,
                _ => ANY,
            };
        }
    }

    pub fn move_address(&mut self) {
        let reg = self.reg();
        let by = self.stream.below(40) as i64 - 20;
        self.emit(&format!("r{reg} += {by}"));
        self.held[reg] = match self.held[reg] {
            Held::Ctx(low, high) => Held::Ctx(low + by, high + by),
            Held::Stack(at) => Held::Stack(at - by),
            Held::Secret => Held::Secret,
            _ => ANY,
        };
    }

    pub fn alu(&mut self) {
        let (dst, src) = (self.reg(), self.reg());
        let letter = self.stream.pick(&["r", "w"]);
        let constant = self.stream.below(2) == 0;
        let op = self.stream.pick(&[
            "+=", "-=", "*=", "/=", "%=", "s/=", "s%=", "|=", "&=", "^=", "<<=", ">>=", "s>>=",
            "+=", "+=", "|=", "^=", "<<=", ">>=",
        ]);
        let before = self.held[dst];
        if constant {
            let mut imm = self.imm();
            match op {
                "*=" if self.stream.below(2) == 0 => imm = self.stream.pick(&[2, 3, 4, 5, 8, 9]),
                "<<=" | ">>=" | "s>>=" => {
                    imm = self
                        .stream
                        .pick(&[1, 2, 3, 8, 16, 24, 31, 32, 40, 48, 56, 7, 25, 57, 61, 29]);
                }
                _ => {}
            }
            self.emit(&format!("{letter}{dst} {op} {imm}"));
            self.held[dst] = if before.is_secret() {
                Held::Secret
            } else {
                ANY
            };
        } else if op == "+=" && letter == "r" {
            self.add(dst, src);
        } else {
            let secret = before.is_secret() || self.held[src].is_secret();
            self.emit(&format!("{letter}{dst} {op} {letter}{src}"));
            self.held[dst] = if secret { Held::Secret } else { ANY };
        }
    }

    pub fn unary(&mut self) {
        let (dst, src) = (self.reg(), self.reg());
        let secret = self.held[dst].is_secret() || self.held[src].is_secret();
        let line = match self.stream.below(8) {
            0 => format!("r{dst} = -r{dst}"),
            1 => format!("w{dst} = -w{dst}"),
            2 => format!("r{dst} = be{} r{dst}", self.stream.pick(&[16, 32, 64])),
            3 => format!("r{dst} = bswap{} r{dst}", self.stream.pick(&[16, 32, 64])),
            4 => format!("r{dst} = le{} r{dst}", self.stream.pick(&[16, 32, 64])),
            5 => format!("w{dst} = (s{})w{src}", self.stream.pick(&[8, 16])),
            _ => format!("r{dst} = (s{})r{src}", self.stream.pick(&[8, 16, 32])),
        };
        self.emit(&line);
        self.held[dst] = if secret { Held::Secret } else { ANY };
    }

    pub fn load(&mut self) {
        let (size, bytes) = self.stream.pick(&SIZES);
        let (address, _) = self.address(bytes);
        let dst = self.reg();
        let sign = if bytes < 8 && self.stream.below(5) == 0 {
            "s"
        } else {
            "u"
        };
        self.emit(&format!("r{dst} = *({sign}{size} *){address}"));
        self.held[dst] = match (bytes, sign) {
            (8, _) | (_, "s") => ANY,
            _ => Held::Number((1 << (8 * bytes)) - 1),
        };
    }

    pub fn store(&mut self) {
        let (size, bytes) = self.stream.pick(&SIZES);
        let src = self.reg();
        self.open(src);
        let imm = self.imm();
        let (address, _) = self.address(bytes);
        if self.stream.below(3) == 0 || self.held[src].is_secret() {
            self.emit(&format!("*(u{size} *){address} = {imm}"));
        } else {
            self.emit(&format!("*(u{size} *){address} = r{src}"));
        }
    }
}

fn plus(reg: usize, off: i64) -> String {
    let sign = if off < 0 { "-" } else { "+" };
    format!("(r{reg} {sign} {})", off.abs())
}
