//! Arithmetic but division. Counts of shifts follow RFC 9669, where the
//! processor might differ.

use super::Compiler;
use super::encode::{Arith, Gpr, R9, RCX, Shift, Unary};
use super::operands::Source;
use super::values::{Load, Sum, Value, machine};
use crate::op::{AluOp, Operand, Reg, Size, Width};

const LOW: i64 = u32::MAX as i64;

impl Compiler<'_> {
    /// `dst = dst op src`.
    pub(super) fn alu(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) {
        let src = self.simplified(src, width);
        match (op, src) {
            (AluOp::Mov, Operand::Reg(src)) => return self.copy(width, dst, src),
            (AluOp::Mov, Operand::Imm(imm)) => {
                let value = match width {
                    Width::W32 => u64::from(imm as u32),
                    Width::W64 => imm as i64 as u64,
                };
                return self.set_constant(dst, value);
            }
            (AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod, _) => {
                return self.divide(width, op, dst, src);
            }
            _ => {}
        }
        if self.join(width, op, dst, src)
            || matches!(op, AluOp::Or | AluOp::Add | AluOp::Xor) && self.rotate(width, dst, src)
            || self.changes_nothing(width, op, dst, src)
            || self.sum(width, op, dst, src)
        {
            return;
        }
        match op {
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => self.shift(width, op, dst, src),
            AluOp::Mul => self.multiply(width, dst, src),
            AluOp::And => self.and(width, dst, src),
            AluOp::Add => self.arith(width, Arith::Add, dst, src),
            AluOp::Sub => self.arith(width, Arith::Sub, dst, src),
            AluOp::Or => self.arith(width, Arith::Or, dst, src),
            _ => self.arith(width, Arith::Xor, dst, src),
        }
    }

    /// `dst = -dst`.
    pub(super) fn negate(&mut self, width: Width, dst: Reg) {
        let dst = self.in_place(dst);
        self.asm().unary(Unary::Neg, width, dst);
    }

    /// The machine register of `dst` with its value in it, free to change.
    fn in_place(&mut self, dst: Reg) -> Gpr {
        self.vacate(dst);
        self.settle(dst);
        machine(dst)
    }

    /// The same, with a source prepared for it. The source may be `dst`.
    fn in_place_with(&mut self, width: Width, dst: Reg, src: Operand) -> (Gpr, Source) {
        self.vacate(dst);
        if src == Operand::Reg(dst) {
            self.settle(dst);
            return (machine(dst), Source::Reg(machine(dst)));
        }
        self.prepare_source(src, width);
        self.settle(dst);
        (machine(dst), self.source(src, width))
    }

    /// Cuts a 32-bit operation short that leaves the lower half as it is.
    fn changes_nothing(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) -> bool {
        let Operand::Imm(imm) = src else { return false };
        let count = imm & if width == Width::W64 { 63 } else { 31 };
        let nothing = match op {
            AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::Xor => imm == 0,
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => count == 0,
            AluOp::Mul => imm == 1,
            AluOp::And => {
                let ones = self.bits.of_operand(Operand::Reg(dst), width);
                self.optimisations.value_masks && ones & !(imm as i64 as u64) == 0
            }
            _ => false,
        };
        if nothing {
            self.copy(width, dst, dst);
        }
        nothing
    }

    /// The narrowest width that gives the same result, as the instruction is
    /// shorter, for operations that make no bit from zeros.
    fn narrowed(&self, width: Width, dst: Reg, src: Operand) -> Width {
        let narrow = match src {
            Operand::Reg(src) => self.bits.is_narrow(src),
            Operand::Imm(imm) => imm >= 0,
        };
        if self.optimisations.short_encodings && narrow && self.bits.is_narrow(dst) {
            return Width::W32;
        }
        width
    }

    fn arith(&mut self, width: Width, op: Arith, dst: Reg, src: Operand) {
        let width = match op {
            Arith::Or | Arith::Xor | Arith::And => self.narrowed(width, dst, src),
            _ => width,
        };
        let (register, src) = self.in_place_with(width, dst, src);
        match src {
            Source::Imm(-1) if op == Arith::Xor => {
                self.asm().unary(Unary::Not, width, register);
            }
            Source::Imm(imm) => self.asm().arith_imm(op, width, register, imm),
            Source::Reg(src) => self.asm().arith(op, width, register, src),
            Source::Mem(src) => self.asm().arith(op, width, register, src),
        }
    }

    fn and(&mut self, width: Width, dst: Reg, src: Operand) {
        if let Operand::Reg(src) = src
            && self.values.get(src) == Some(Value::Constant(LOW as u64))
        {
            return self.copy(Width::W32, dst, dst);
        }
        let mut width = width;
        if let Operand::Imm(imm @ 0..) = src
            && self.optimisations.short_encodings
        {
            // A mask without upper bits clears the upper half either way.
            width = Width::W32;
            let size = match imm {
                0xff => Some(Size::B),
                0xffff => Some(Size::H),
                _ => None,
            };
            if let Some(size) = size {
                self.vacate(dst);
                self.prepare(dst, width);
                let from = self.register(dst, width);
                let dst = self.overwrite(dst);
                return self.asm().zero_extend(size, dst, from);
            }
        }
        self.arith(width, Arith::And, dst, src);
    }

    fn multiply(&mut self, width: Width, dst: Reg, src: Operand) {
        if let Operand::Imm(imm) = src {
            self.vacate(dst);
            if imm > 0 && (imm as u32).is_power_of_two() {
                return self.shift_immediate(width, AluOp::Lsh, dst, imm.trailing_zeros() as i32);
            }
            self.prepare(dst, width);
            let from = self.register(dst, width);
            let dst = self.overwrite(dst);
            return self.asm().multiply_imm(width, dst, from, imm);
        }
        let (dst, src) = self.in_place_with(width, dst, src);
        match src {
            Source::Reg(src) => self.asm().multiply(width, dst, src),
            Source::Mem(src) => self.asm().multiply(width, dst, src),
            Source::Imm(imm) => self.asm().multiply_imm(width, dst, dst, imm),
        }
    }

    fn shift(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) {
        match src {
            Operand::Imm(imm) if self.half_shift(width, op, dst, imm) => {}
            Operand::Imm(imm) => self.shift_immediate(width, op, dst, imm),
            Operand::Reg(count) => self.shift_register(width, op, dst, count),
        }
    }

    fn shift_immediate(&mut self, width: Width, op: AluOp, dst: Reg, imm: i32) {
        let count = match width {
            Width::W64 => imm & 63,
            Width::W32 => imm & 31,
        } as u8;
        let width = match op {
            AluOp::Rsh => self.narrowed(width, dst, Operand::Imm(0)),
            _ => width,
        };
        // Of a shorter width, a count that large leaves nothing.
        if width == Width::W32 && count > 31 {
            return self.set_constant(dst, 0);
        }
        let register = self.in_place(dst);
        self.asm()
            .shift_imm(machine_shift(op), width, register, count);
    }

    fn shift_register(&mut self, width: Width, op: AluOp, dst: Reg, count: Reg) {
        let op = machine_shift(op);
        self.vacate(dst);
        // The lower half of the count is enough.
        self.prepare(count, Width::W32);
        if self.bmi2() {
            self.prepare(dst, width);
            let from = self.register(dst, width);
            let count = self.register(count, Width::W32);
            let dst = self.overwrite(dst);
            return self.asm().shift_by(op, width, dst, from, count);
        }
        self.settle(dst);
        let count = self.register(count, Width::W32);
        let register = self.in_place(dst);
        if count == RCX {
            return self.asm().shift_cl(op, width, register);
        }
        // Without BMI2 the count must be in cl, which is r4; `count` may be
        // r11, where r10 is put.
        self.asm().mov(Width::W64, R9, RCX);
        self.asm().mov(Width::W32, RCX, count);
        if register == RCX {
            self.asm().shift_cl(op, width, R9);
        } else {
            self.asm().shift_cl(op, width, register);
        }
        self.asm().mov(Width::W64, RCX, R9);
    }

    /// `dst = src` with the sign of its low bits, at a width.
    pub(super) fn move_extended(&mut self, width: Width, from: Size, dst: Reg, src: Reg) {
        self.vacate(dst);
        let load = if src == dst || self.dies(src) {
            self.waiting(src, from)
        } else {
            None
        };
        if let Some(sum) = load {
            let memory = self.memory_of(sum, 0);
            self.values.forget(src);
            let dst = self.overwrite(dst);
            return self.asm().sign_extend(width, from, dst, memory);
        }
        self.prepare(src, Width::W32);
        let src = self.register(src, Width::W32);
        let dst = self.overwrite(dst);
        self.asm().sign_extend(width, from, dst, src);
    }

    /// The plain load of a size that `reg` stands for.
    fn waiting(&self, reg: Reg, size: Size) -> Option<Sum> {
        match self.values.get(reg)? {
            Value::Load(Load {
                from,
                bytes,
                swapped: false,
                shift: 0,
            }) if u32::from(bytes) * 8 == size.bits() => Some(from),
            _ => None,
        }
    }

    /// The low bits of `dst` in the other byte order, or just the low bits.
    pub(super) fn swap_register(&mut self, size: Size, dst: Gpr) {
        match size {
            Size::B => self.asm().zero_extend(Size::B, dst, dst),
            Size::H => {
                self.asm().swap_low_bytes(dst);
                self.asm().zero_extend(Size::H, dst, dst);
            }
            Size::W => self.asm().swap_bytes(Width::W32, dst),
            Size::DW => self.asm().swap_bytes(Width::W64, dst),
        }
    }

    /// `dst` in another byte order, of which `size` remains.
    pub(super) fn swap(&mut self, kind: crate::op::Swap, size: Size, dst: Reg) {
        if self.swap_load(kind, size, dst) {
            return;
        }
        if kind != crate::op::Swap::Le {
            let dst = self.in_place(dst);
            return self.swap_register(size, dst);
        }
        match size {
            Size::DW => {}
            Size::W => self.copy(Width::W32, dst, dst),
            Size::B | Size::H => {
                let dst = self.in_place(dst);
                self.asm().zero_extend(size, dst, dst);
            }
        }
    }
}

fn machine_shift(op: AluOp) -> Shift {
    match op {
        AluOp::Lsh => Shift::Shl,
        AluOp::Rsh => Shift::Shr,
        _ => Shift::Sar,
    }
}
