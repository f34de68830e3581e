//! Registers and memory operands of x86-64 and how they are encoded. Knows
//! no instruction.

/// A general purpose register by its number in encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gpr(pub u8);

pub(super) const RAX: Gpr = Gpr(0);
pub(super) const RCX: Gpr = Gpr(1);
pub(super) const RDX: Gpr = Gpr(2);
pub(super) const RBX: Gpr = Gpr(3);
pub(super) const RSP: Gpr = Gpr(4);
pub(super) const RBP: Gpr = Gpr(5);
pub(super) const RSI: Gpr = Gpr(6);
pub(super) const RDI: Gpr = Gpr(7);
pub(super) const R8: Gpr = Gpr(8);
pub(super) const R9: Gpr = Gpr(9);
pub(super) const R10: Gpr = Gpr(10);
pub(super) const R11: Gpr = Gpr(11);
pub(super) const R12: Gpr = Gpr(12);
pub(super) const R13: Gpr = Gpr(13);
pub(super) const R14: Gpr = Gpr(14);
pub(super) const R15: Gpr = Gpr(15);

/// A memory operand: `base + index << scale + disp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub base: Option<Gpr>,
    /// Not rsp.
    pub index: Option<(Gpr, u8)>,
    pub disp: i32,
}

impl Memory {
    pub fn at(base: Gpr, disp: i32) -> Memory {
        Memory {
            base: Some(base),
            index: None,
            disp,
        }
    }
}

/// An operand that is a register or in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rm {
    Reg(Gpr),
    Mem(Memory),
}

impl From<Gpr> for Rm {
    fn from(register: Gpr) -> Rm {
        Rm::Reg(register)
    }
}

impl From<Memory> for Rm {
    fn from(memory: Memory) -> Rm {
        Rm::Mem(memory)
    }
}

/// Two-operand arithmetic, numbered as in opcodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arith {
    Add = 0,
    Or = 1,
    And = 4,
    Sub = 5,
    Xor = 6,
    Cmp = 7,
}

/// Shifts, numbered as in opcodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    Rol = 0,
    Shl = 4,
    Shr = 5,
    Sar = 7,
}

/// One-operand arithmetic of opcode f7, numbered as there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unary {
    Not = 2,
    Neg = 3,
    Imul = 5,
    Div = 6,
    Idiv = 7,
}

/// Opcode map of an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Map {
    One,
    /// 0f
    Two,
    /// 0f 38
    Three,
}

/// Machine code without unresolved references.
pub(super) struct Assembler {
    pub bytes: Vec<u8>,
    /// Whether short forms of immediates and displacements are used, and no
    /// needless prefixes.
    pub(super) compact: bool,
}

impl Assembler {
    pub fn new(compact: bool, capacity: usize) -> Assembler {
        Assembler {
            bytes: Vec::with_capacity(capacity),
            compact,
        }
    }

    /// Bytes so far.
    pub fn offset(&self) -> usize {
        self.bytes.len()
    }

    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub fn dword(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Whether an immediate or displacement goes into a byte.
    pub(super) fn short(&self, value: i32) -> Option<i8> {
        i8::try_from(value).ok().filter(|_| self.compact)
    }

    /// `prefix`: a REX prefix even without bits, with which 4 to 7 name the
    /// low bytes of rsp to rdi.
    pub(super) fn form(&mut self, wide: bool, map: Map, opcode: u8, reg: u8, rm: Rm, prefix: bool) {
        let high = |register: Gpr| register.0 >> 3;
        let (index, base) = match rm {
            Rm::Reg(register) => (0, high(register)),
            Rm::Mem(m) => (
                m.index.map_or(0, |(register, _)| high(register)),
                m.base.map_or(0, high),
            ),
        };
        let rex = 0x40 | u8::from(wide) << 3 | (reg >> 3) << 2 | index << 1 | base;
        if rex != 0x40 || prefix {
            self.byte(rex);
        }
        match map {
            Map::One => {}
            Map::Two => self.byte(0x0f),
            Map::Three => self.bytes.extend_from_slice(&[0x0f, 0x38]),
        }
        self.byte(opcode);
        self.operand(reg, rm);
    }

    /// ModRM, SIB and displacement.
    fn operand(&mut self, reg: u8, rm: Rm) {
        let reg = (reg & 7) << 3;
        let memory = match rm {
            Rm::Reg(register) => return self.byte(0xc0 | reg | register.0 & 7),
            Rm::Mem(memory) => memory,
        };
        let sib_index = |index: Option<(Gpr, u8)>| match index {
            Some((register, scale)) => scale << 6 | (register.0 & 7) << 3,
            None => 4 << 3,
        };
        let Some(base) = memory.base else {
            self.byte(reg | 4);
            self.byte(sib_index(memory.index) | 5);
            return self.dword(memory.disp);
        };
        let low = base.0 & 7;
        let (mode, short) = match self.short(memory.disp) {
            // rbp and r13 as base always have a displacement.
            Some(0) if low != 5 => (0, None),
            Some(disp) => (0x40, Some(disp)),
            None => (0x80, None),
        };
        if memory.index.is_some() || low == 4 {
            self.byte(mode | reg | 4);
            self.byte(sib_index(memory.index) | low);
        } else {
            self.byte(mode | reg | low);
        }
        match short {
            Some(disp) => self.byte(disp as u8),
            None if mode == 0x80 => self.dword(memory.disp),
            None => {}
        }
    }
}
