//! The instructions that the compiler uses, each as a function. Knows opcodes;
//! no eBPF and no jump targets.

use super::encode::{Arith, Assembler, Gpr, Map, Memory, RAX, Rm, Shift, Unary};
use crate::op::{Size, Width};

impl Assembler {
    fn simple(&mut self, width: Width, opcode: u8, reg: u8, rm: Rm) {
        let wide = width == Width::W64;
        self.form(wide, Map::One, opcode, reg, rm, !self.compact);
    }

    fn two(&mut self, width: Width, opcode: u8, reg: Gpr, rm: Rm) {
        let wide = width == Width::W64;
        self.form(wide, Map::Two, opcode, reg.0, rm, !self.compact);
    }

    /// `op dst, src`.
    pub fn arith(&mut self, op: Arith, width: Width, dst: Gpr, src: impl Into<Rm>) {
        self.simple(width, (op as u8) << 3 | 3, dst.0, src.into());
    }

    /// `op dst, imm`.
    pub fn arith_imm(&mut self, op: Arith, width: Width, dst: impl Into<Rm>, imm: i32) {
        if let Some(short) = self.short(imm) {
            self.simple(width, 0x83, op as u8, dst.into());
            self.byte(short as u8);
        } else {
            self.simple(width, 0x81, op as u8, dst.into());
            self.dword(imm);
        }
    }

    /// `op *memory, src`.
    pub fn arith_store(&mut self, op: Arith, width: Width, memory: Memory, src: Gpr) {
        self.simple(width, (op as u8) << 3 | 1, src.0, memory.into());
    }

    /// `cmp byte memory, imm`.
    pub fn compare_byte(&mut self, memory: Memory, imm: u8) {
        self.form(false, Map::One, 0x80, 7, memory.into(), false);
        self.byte(imm);
    }

    pub fn test(&mut self, width: Width, a: impl Into<Rm>, b: Gpr) {
        self.simple(width, 0x85, b.0, a.into());
    }

    /// `test` of the low byte.
    pub fn test_byte(&mut self, a: Gpr, imm: u8) {
        self.form(false, Map::One, 0xf6, 0, a.into(), is_new_byte(a.into()));
        self.byte(imm);
    }

    pub fn test_imm(&mut self, width: Width, a: impl Into<Rm>, imm: i32) {
        self.simple(width, 0xf7, 0, a.into());
        self.dword(imm);
    }

    pub fn unary(&mut self, op: Unary, width: Width, register: Gpr) {
        self.simple(width, 0xf7, op as u8, register.into());
    }

    pub fn mov(&mut self, width: Width, dst: Gpr, src: Gpr) {
        self.simple(width, 0x8b, dst.0, src.into());
    }

    /// `dst = value`; changes flags.
    pub fn constant(&mut self, dst: Gpr, value: u64) {
        if value == 0 && self.compact {
            self.arith(Arith::Xor, Width::W32, dst, dst);
        } else if let (Ok(low), true) = (u32::try_from(value), self.compact) {
            self.rex_low(false, dst);
            self.byte(0xb8 | dst.0 & 7);
            self.dword(low as i32);
        } else if let Ok(low) = i32::try_from(value as i64) {
            self.simple(Width::W64, 0xc7, 0, dst.into());
            self.dword(low);
        } else {
            self.rex_low(true, dst);
            self.byte(0xb8 | dst.0 & 7);
            self.bytes.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// The prefix of an instruction with its register in the opcode.
    fn rex_low(&mut self, wide: bool, register: Gpr) {
        let rex = 0x40 | u8::from(wide) << 3 | register.0 >> 3;
        if rex != 0x40 {
            self.byte(rex);
        }
    }

    /// `dst = src` zero-extended from a size.
    pub fn zero_extend(&mut self, size: Size, dst: Gpr, src: impl Into<Rm>) {
        let src = src.into();
        match size {
            Size::B => self.form(false, Map::Two, 0xb6, dst.0, src, is_new_byte(src)),
            Size::H => self.two(Width::W32, 0xb7, dst, src),
            Size::W => self.simple(Width::W32, 0x8b, dst.0, src),
            Size::DW => self.simple(Width::W64, 0x8b, dst.0, src),
        }
    }

    /// `dst = src` sign-extended from a size to a width.
    pub fn sign_extend(&mut self, width: Width, size: Size, dst: Gpr, src: impl Into<Rm>) {
        let (src, wide) = (src.into(), width == Width::W64);
        match size {
            Size::B => self.form(wide, Map::Two, 0xbe, dst.0, src, is_new_byte(src)),
            Size::H => self.two(width, 0xbf, dst, src),
            Size::W if wide => self.simple(width, 0x63, dst.0, src),
            Size::W | Size::DW => self.simple(width, 0x8b, dst.0, src),
        }
    }

    /// `*(size *)memory = src`.
    pub fn store(&mut self, size: Size, memory: Memory, src: Gpr) {
        let rm = Rm::Mem(memory);
        match size {
            Size::B => self.form(false, Map::One, 0x88, src.0, rm, is_new_byte(src.into())),
            Size::H => {
                self.byte(0x66);
                self.simple(Width::W32, 0x89, src.0, rm);
            }
            Size::W => self.simple(Width::W32, 0x89, src.0, rm),
            Size::DW => self.simple(Width::W64, 0x89, src.0, rm),
        }
    }

    /// `*(size *)memory = imm`.
    pub fn store_imm(&mut self, size: Size, memory: Memory, imm: i32) {
        let rm = Rm::Mem(memory);
        match size {
            Size::B => {
                self.simple(Width::W32, 0xc6, 0, rm);
                self.byte(imm as u8);
            }
            Size::H => {
                self.byte(0x66);
                self.simple(Width::W32, 0xc7, 0, rm);
                self.bytes.extend_from_slice(&(imm as u16).to_le_bytes());
            }
            Size::W | Size::DW => {
                self.simple(wide(size), 0xc7, 0, rm);
                self.dword(imm);
            }
        }
    }

    /// `dst = *memory` in the other byte order; 16 bits leave the rest of
    /// `dst` as it was.
    pub fn load_swapped(&mut self, size: Size, dst: Gpr, memory: Memory) {
        if size == Size::H {
            self.byte(0x66);
        }
        let wide = size == Size::DW;
        self.form(wide, Map::Three, 0xf0, dst.0, memory.into(), false);
    }

    /// `lea dst, [rip + displacement]`, which the caller appends.
    pub fn lea_relative(&mut self, dst: Gpr) {
        self.byte(0x48 | (dst.0 >> 3) << 2);
        self.byte(0x8d);
        self.byte((dst.0 & 7) << 3 | 5);
    }

    pub fn lea(&mut self, width: Width, dst: Gpr, memory: Memory) {
        self.simple(width, 0x8d, dst.0, memory.into());
    }

    /// `dst *= src`.
    pub fn multiply(&mut self, width: Width, dst: Gpr, src: impl Into<Rm>) {
        self.two(width, 0xaf, dst, src.into());
    }

    /// `dst = src * imm`.
    pub fn multiply_imm(&mut self, width: Width, dst: Gpr, src: impl Into<Rm>, imm: i32) {
        if let Some(short) = self.short(imm) {
            self.simple(width, 0x6b, dst.0, src.into());
            self.byte(short as u8);
        } else {
            self.simple(width, 0x69, dst.0, src.into());
            self.dword(imm);
        }
    }

    pub fn shift_imm(&mut self, op: Shift, width: Width, dst: Gpr, count: u8) {
        self.simple(width, 0xc1, op as u8, dst.into());
        self.byte(count);
    }

    /// `dst op= cl`.
    pub fn shift_cl(&mut self, op: Shift, width: Width, dst: Gpr) {
        self.simple(width, 0xd3, op as u8, dst.into());
    }

    /// `rol dst16, 8`.
    pub fn swap_low_bytes(&mut self, dst: Gpr) {
        self.byte(0x66);
        self.shift_imm(Shift::Rol, Width::W32, dst, 8);
    }

    pub fn swap_bytes(&mut self, width: Width, dst: Gpr) {
        self.rex_low(width == Width::W64, dst);
        self.byte(0x0f);
        self.byte(0xc8 | dst.0 & 7);
    }

    /// `dst = src op count`, by BMI2; `op` is not a rotation.
    pub fn shift_by(&mut self, op: Shift, width: Width, dst: Gpr, src: Gpr, count: Gpr) {
        let prefix = match op {
            Shift::Sar => 2,
            Shift::Shr => 3,
            Shift::Shl | Shift::Rol => 1,
        };
        self.vex(2, prefix, width, 0xf7, (dst, count, src));
    }

    /// `dst = src` rotated right, by BMI2.
    pub fn rotate_right(&mut self, width: Width, dst: Gpr, src: Gpr, count: u8) {
        self.vex(3, 3, width, 0xf0, (dst, RAX, src));
        self.byte(count);
    }

    /// `dst` = upper half of `rdx * src`, by BMI2.
    pub fn multiply_high(&mut self, width: Width, dst: Gpr, src: Gpr) {
        self.vex(2, 3, width, 0xf6, (dst, dst, src));
    }

    /// Three registers: reg, vvvv and rm.
    fn vex(
        &mut self,
        map: u8,
        prefix: u8,
        width: Width,
        opcode: u8,
        (reg, v, rm): (Gpr, Gpr, Gpr),
    ) {
        let wide = u8::from(width == Width::W64);
        self.byte(0xc4);
        self.byte((!reg.0 >> 3 & 1) << 7 | 1 << 6 | (!rm.0 >> 3 & 1) << 5 | map);
        self.byte(wide << 7 | (!v.0 & 15) << 3 | prefix);
        self.byte(opcode);
        self.byte(0xc0 | (reg.0 & 7) << 3 | rm.0 & 7);
    }

    /// `lock op *memory, src`.
    pub fn lock_arith(&mut self, op: Arith, width: Width, memory: Memory, src: Gpr) {
        self.byte(0xf0);
        self.arith_store(op, width, memory, src);
    }

    pub fn lock_exchange_add(&mut self, width: Width, memory: Memory, src: Gpr) {
        self.byte(0xf0);
        self.two(width, 0xc1, src, memory.into());
    }

    pub fn lock_compare_exchange(&mut self, width: Width, memory: Memory, src: Gpr) {
        self.byte(0xf0);
        self.two(width, 0xb1, src, memory.into());
    }

    /// Locks by itself.
    pub fn exchange(&mut self, width: Width, memory: Memory, src: Gpr) {
        self.simple(width, 0x87, src.0, memory.into());
    }

    /// Sign of rax into all of rdx.
    pub fn sign_into_rdx(&mut self, width: Width) {
        self.rex_low(width == Width::W64, RAX);
        self.byte(0x99);
    }

    pub fn push(&mut self, register: Gpr) {
        self.rex_low(false, register);
        self.byte(0x50 | register.0 & 7);
    }

    pub fn pop(&mut self, register: Gpr) {
        self.rex_low(false, register);
        self.byte(0x58 | register.0 & 7);
    }

    pub fn jump_to(&mut self, register: Gpr) {
        self.simple(Width::W32, 0xff, 4, register.into());
    }

    pub fn call_to(&mut self, register: Gpr) {
        self.simple(Width::W32, 0xff, 2, register.into());
    }

    pub fn ret(&mut self) {
        self.byte(0xc3);
    }
}

/// The width of a word or double word.
pub(super) fn wide(size: Size) -> Width {
    match size {
        Size::DW => Width::W64,
        _ => Width::W32,
    }
}

/// Whether the low byte of a register has a name only with a prefix.
fn is_new_byte(rm: Rm) -> bool {
    matches!(rm, Rm::Reg(register) if register.0 >= 4)
}
