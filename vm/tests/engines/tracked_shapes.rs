//! Random programs of shapes that the JIT treats as one, and of branches,
//! loops and calls, among single instructions (`tracked_maker`).

use crate::tracked_maker::{ANY, COUNTER, Held, Maker, ROOM, SIZES, STACK};

impl Maker {
    /// Load, change and store at one place, sometimes less.
    fn modify(&mut self) {
        let (size, bytes) = self.stream.pick(&SIZES);
        let (address, _) = self.address(bytes);
        let (dst, src) = (self.reg(), self.reg());
        self.emit(&format!("r{dst} = *(u{size} *){address}"));
        self.held[dst] = ANY;
        let letter = self.stream.pick(&["r", "w"]);
        let op = self.stream.pick(&["+=", "-=", "|=", "&=", "^="]);
        if self.stream.below(2) == 0 || self.held[src].is_secret() {
            let imm = self.imm();
            self.emit(&format!("{letter}{dst} {op} {imm}"));
        } else {
            self.emit(&format!("{letter}{dst} {op} {letter}{src}"));
        }
        if address.contains(&format!("r{dst} ")) {
            return;
        }
        let narrower = self.stream.below(4) == 0;
        let size = if narrower { "8" } else { size };
        self.emit(&format!("*(u{size} *){address} = r{dst}"));
        if self.stream.below(2) == 0 {
            let imm = self.imm();
            self.emit(&format!("r{dst} = {imm}"));
        }
    }

    /// Neighbouring bytes put together.
    fn ladder(&mut self) {
        let [sum, part] = [self.reg(), self.reg()];
        if sum == part {
            return;
        }
        let (size, bytes) = self.stream.pick(&SIZES[..3]);
        let count = (2 + self.stream.below(7) as i64).min(8 / bytes);
        let base = self.stream.below((ROOM - 64) as usize) as i64;
        let big = self.stream.below(2) == 0;
        let letter = self.stream.pick(&["r", "r", "w"]);
        let op = self.stream.pick(&["|=", "|=", "+=", "^="]);
        let from = self.few.iter().copied().find(|&reg| {
            reg != sum
                && reg != part
                && matches!(self.held[reg], Held::Ctx(low, high) if low >= 0 && high < 40)
        });
        let from = from.map_or_else(|| "r9".to_owned(), |reg| format!("r{reg}"));
        let base = if from == "r9" { base } else { base.min(60) };
        for at in 0..count {
            let place = if big { count - 1 - at } else { at };
            let dst = if at == 0 { sum } else { part };
            let off = base + at * bytes;
            self.emit(&format!("r{dst} = *(u{size} *)({from} + {off})"));
            if place > 0 {
                self.emit(&format!("{letter}{dst} <<= {}", place * 8 * bytes));
            }
            if at > 0 {
                self.emit(&format!("{letter}{sum} {op} {letter}{part}"));
            }
            self.held[dst] = ANY;
            if self.stream.below(10) == 0 {
                self.store_near();
            }
        }
        self.held[sum] = ANY;
        if self.stream.below(3) > 0 {
            self.emit(&format!("r{part} = {base}"));
        }
    }

    fn store_near(&mut self) {
        let off = self.stream.below(ROOM as usize - 8);
        let imm = self.imm();
        let size = self.stream.pick(&SIZES).0;
        self.emit(&format!("*(u{size} *)(r9 + {off}) = {imm}"));
    }

    /// Halves of rotations, extensions.
    fn shifts(&mut self) {
        let [a, b, of] = [self.reg(), self.reg(), self.reg()];
        self.open(of);
        let (letter, bits) = self.stream.pick(&[("r", 64), ("w", 32)]);
        let left = self.stream.pick(&[1, 2, 3, 8, 16, 24, 31, 13, 29, 30]);
        let right = if self.stream.below(4) == 0 {
            left
        } else {
            bits - left
        };
        self.emit(&format!("r{a} = r{of}"));
        self.held[a] = ANY;
        let ops = self.stream.pick(&[
            ("<<=", ">>="),
            (">>=", "<<="),
            ("<<=", "s>>="),
            ("<<=", "<<="),
        ]);
        if self.stream.below(3) == 0 {
            let count = self.stream.pick(&[left, bits - 8, bits - 16, 32 % bits]);
            self.emit(&format!(
                "{letter}{a} <<= {count}\n{letter}{a} {} {count}",
                ops.1
            ));
            return;
        }
        self.emit(&format!("{letter}{a} {} {left}", ops.0));
        if self.stream.below(4) == 0 {
            self.store_near();
        }
        self.open(of);
        if b != of {
            self.emit(&format!("r{b} = r{of}"));
        }
        self.held[b] = ANY;
        let letter = if self.stream.below(8) == 0 {
            "r"
        } else {
            letter
        };
        self.emit(&format!("{letter}{b} {} {right}", ops.1));
        if self.held[a].is_secret() || self.held[b].is_secret() {
            return;
        }
        let op = self.stream.pick(&["|=", "+=", "^="]);
        self.emit(&format!("{letter}{a} {op} {letter}{b}"));
        self.held[a] = ANY;
    }

    fn atomic(&mut self) {
        let (size, _) = self.stream.pick(&SIZES[2..]);
        let off = 8 * self.stream.below(8) as i64;
        let base = self.reg();
        let src = self.reg();
        self.open(src);
        self.open(0);
        let address = if self.stream.below(2) == 0 && self.few.contains(&base) {
            self.emit(&format!("r{base} = r9\nr{base} += {off}"));
            self.held[base] = Held::Ctx(off, off);
            format!("(r{base} + 8)")
        } else {
            format!("(r9 + {off})")
        };
        let line = match self.stream.below(5) {
            0 => format!(
                "lock *(u{size} *){address} {} r{src}",
                self.stream.pick(&["+=", "|=", "&=", "^="])
            ),
            _ => {
                let name = self.stream.pick(&["add", "or", "and", "xor"]);
                format!("r{src} = atomic_fetch_{name}((u{size} *){address}, r{src})")
            }
        };
        if line.starts_with('r') {
            if size == "32" {
                // The assembler names these by the width of the register.
                self.emit(&format!("lock *(u32 *){address} += r{src}"));
                return;
            }
            self.held[src] = ANY;
        }
        self.emit(&line);
    }

    fn branch(&mut self, depth: usize) {
        let (dst, src) = (self.reg(), self.reg());
        self.open(dst);
        self.open(src);
        let letter = self.stream.pick(&["r", "w"]);
        let cond = self.stream.pick(&[
            "==", "!=", "<", "<=", ">", ">=", "s<", "s<=", "s>", "s>=", "&",
        ]);
        let label = self.labels;
        self.labels += 1;
        let right = if self.stream.below(2) == 0 || self.held[src].is_secret() {
            self.imm().to_string()
        } else {
            format!("{letter}{src}")
        };
        if self.held[dst].is_secret() {
            return;
        }
        self.emit(&format!("if {letter}{dst} {cond} {right} goto l{label}"));
        let before = self.held;
        let other = self.stream.below(3) == 0;
        let inner = self.stream.below(6);
        self.pieces(inner, depth + 1);
        if other {
            let end = self.labels;
            self.labels += 1;
            self.emit(&format!("goto l{end}\nl{label}:"));
            let taken = self.held;
            self.held = before;
            let inner = self.stream.below(6);
            self.pieces(inner, depth + 1);
            self.emit(&format!("l{end}:"));
            self.join(taken);
        } else {
            self.emit(&format!("l{label}:"));
            self.join(before);
        }
    }

    fn join(&mut self, other: [Held; 9]) {
        for (mine, other) in self.held.iter_mut().zip(other) {
            *mine = mine.joined(other);
        }
    }

    /// A loop that counts in memory, to keep all registers in play.
    fn repeat(&mut self, depth: usize) {
        let label = self.labels;
        self.labels += 1;
        let rounds = 1 + self.stream.below(4);
        for reg in self.few.clone() {
            self.open(reg);
        }
        self.held = [ANY; 9];
        self.emit(&format!("l{label}:"));
        let inner = 1 + self.stream.below(8);
        self.pieces(inner, depth + 1);
        for reg in self.few.clone() {
            self.open(reg);
        }
        let reg = self.reg();
        self.emit(&format!("r{reg} = *(u64 *)(r9 + {COUNTER})"));
        self.emit(&format!("r{reg} += 1\n*(u64 *)(r9 + {COUNTER}) = r{reg}"));
        self.held[reg] = ANY;
        self.emit(&format!("if r{reg} < {rounds} goto l{label}"));
    }

    /// A look-up, a call of a helper or of a subprogram.
    fn call(&mut self) {
        let result = match self.stream.below(5) {
            0..=2 => {
                let key = self.reg();
                self.open(key);
                let at = 4 * (1 + self.stream.below(8) as i64);
                match self.stream.below(4) {
                    0 => self.emit(&format!("*(u32 *)(r10 - {at}) = 3")),
                    1 => {
                        self.emit(&format!("w{key} &= 7\n*(u32 *)(r10 - {at}) = r{key}"));
                        self.held[key] = Held::Number(7);
                    }
                    _ => self.emit(&format!("*(u32 *)(r10 - {at}) = r{key}")),
                }
                match self.stream.below(6) {
                    0 => self.store(),
                    1 => self.alu(),
                    2 => self.copy(),
                    3 => self.load(),
                    4 => self.modify(),
                    _ => {}
                }
                if self.stream.below(5) == 0 {
                    let (address, _) = self.address(4);
                    let inner = address.trim_matches(['(', ')']).to_owned();
                    let (reg, off) = inner.split_once(' ').expect("a register and a number");
                    let off: i64 = off.replace(' ', "").parse().expect("a number");
                    self.emit(&format!("r2 = {reg}\nr2 += {off}"));
                } else {
                    self.emit(&format!("r2 = r10\nr2 += -{at}"));
                }
                self.emit("r1 = map[7]\ncall 1");
                ANY
            }
            3 => {
                self.emit("call 3");
                ANY
            }
            _ => {
                for reg in 1..6 {
                    self.open(reg);
                }
                self.emit("call leaf");
                ANY
            }
        };
        self.held[0] = result;
        for reg in 1..6 {
            let imm = self.imm();
            self.emit(&format!("r{reg} = {imm}"));
            self.held[reg] = ANY;
        }
    }

    fn pieces(&mut self, count: usize, depth: usize) {
        for _ in 0..count {
            if self.calls && self.stream.below(12) == 0 {
                self.call();
                continue;
            }
            match self.stream.below(23) {
                0 | 1 => self.copy(),
                2 | 3 => self.move_address(),
                4..=7 => self.alu(),
                8 => self.unary(),
                9..=11 => self.load(),
                12 | 13 => self.store(),
                14 => self.modify(),
                15 => self.ladder(),
                16 => self.shifts(),
                17 => self.atomic(),
                18 => self.point(),
                19 => self.bound(),
                20 | 21 if depth < 3 => self.branch(depth),
                22 if depth < 2 => self.repeat(depth),
                _ => self.copy(),
            }
        }
    }

    /// The program.
    pub fn whole(mut self) -> String {
        for at in 1..=STACK / 8 {
            self.emit(&format!(
                "*(u64 *)(r10 - {}) = {}",
                8 * at,
                0x0123_4567 * at
            ));
        }
        for reg in 0..9 {
            let value = match self.stream.below(3) {
                0 => self.stream.below(20) as u64,
                1 => self
                    .stream
                    .pick(&[u64::MAX, 1 << 63, 0x8000_0000, 0xffff_ffff, 1 << 32, 0]),
                _ => (self.stream.below(1 << 40) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            };
            self.emit(&format!("r{reg} = {value:#x} ll"));
        }
        let count = 3 + self.stream.below(25);
        self.pieces(count, 0);
        for reg in 0..9 {
            self.open(reg);
            self.emit(&format!(
                "*(u64 *)(r9 + {}) = r{reg}",
                ROOM + 8 * reg as i64
            ));
        }
        for at in 1..=STACK / 8 {
            self.emit(&format!(
                "r1 = *(u64 *)(r10 - {})\nr0 *= 31\nr0 += r1",
                8 * at
            ));
        }
        if !self.calls {
            return self.text + "exit";
        }
        let depth = 8 * (1 + self.stream.below(40));
        self.text
            + &format!(
                "exit\nleaf:\nr6 = r1\nr6 *= 3\nr8 = r2\nr7 = r10\nr7 += -{depth}\n\
                 *(u64 *)(r7 + 0) = r3\nr9 = r4\nr9 ^= r5\nr0 = *(u64 *)(r7 + 0)\n\
                 r0 += r6\nr0 ^= r8\nr0 -= r9\nexit"
            )
    }
}
