//! Arithmetic. Division by zero, the quotient that does not fit and counts
//! of shifts follow RFC 9669, where the processor would trap or differ.

use dynasmrt::DynasmApi;

use super::buffer::Cc;
use super::frame::{R9, R10, R11, RAX, RCX, RDX};
use super::{Compiler, emit, emit_byte};
use crate::op::{AluOp, Operand, Reg, Size, Width};

/// `$op dst, src` at a width.
macro_rules! by_register {
    ($self:expr, $width:expr, $op:ident, $dst:expr, $src:expr) => {
        match $width {
            Width::W64 => emit!($self, $op Rq($dst), Rq($src)),
            Width::W32 => emit!($self, $op Rd($dst), Rd($src)),
        }
    };
}

/// `$op dst, imm` at a width, with the shortest immediate.
macro_rules! by_immediate {
    ($self:expr, $width:expr, $op:ident, $dst:expr, $imm:expr) => {
        match ($width, i8::try_from($imm)) {
            (Width::W64, Ok(imm)) => emit!($self, $op Rq($dst), BYTE imm),
            (Width::W64, Err(_)) => emit!($self, $op Rq($dst), DWORD $imm),
            (Width::W32, Ok(imm)) => emit!($self, $op Rd($dst), BYTE imm),
            (Width::W32, Err(_)) => emit!($self, $op Rd($dst), DWORD $imm),
        }
    };
}

pub(super) use by_register;

impl Compiler<'_> {
    /// `dst = dst op src`.
    pub(super) fn alu(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) {
        let dst = self.machine(dst);
        match src {
            Operand::Reg(src) => {
                let src = self.machine(src);
                self.alu_register(width, op, dst, src);
            }
            Operand::Imm(imm) => self.alu_immediate(width, op, dst, imm),
        }
    }

    fn alu_register(&mut self, width: Width, op: AluOp, dst: u8, src: u8) {
        match op {
            AluOp::Add => by_register!(self, width, add, dst, src),
            AluOp::Sub => by_register!(self, width, sub, dst, src),
            AluOp::Or => by_register!(self, width, or, dst, src),
            AluOp::And => by_register!(self, width, and, dst, src),
            AluOp::Xor => by_register!(self, width, xor, dst, src),
            AluOp::Mul => by_register!(self, width, imul, dst, src),
            AluOp::Mov if width == Width::W64 && dst == src => {}
            AluOp::Mov => by_register!(self, width, mov, dst, src),
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => self.shift(width, op, dst, src),
            AluOp::Div | AluOp::Mod => self.divide_unsigned(width, op, dst, src),
            AluOp::Sdiv | AluOp::Smod => self.divide_signed(width, op, dst, src),
        }
    }

    fn alu_immediate(&mut self, width: Width, op: AluOp, dst: u8, imm: i32) {
        match op {
            AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::Xor if imm == 0 => {
                self.truncate(width, dst);
            }
            AluOp::Add => by_immediate!(self, width, add, dst, imm),
            AluOp::Sub => by_immediate!(self, width, sub, dst, imm),
            AluOp::Or => by_immediate!(self, width, or, dst, imm),
            AluOp::Xor => by_immediate!(self, width, xor, dst, imm),
            // A mask without upper bits clears the upper half either way.
            AluOp::And if imm >= 0 => by_immediate!(self, Width::W32, and, dst, imm),
            AluOp::And => by_immediate!(self, width, and, dst, imm),
            AluOp::Mov if width == Width::W32 => {
                self.load_constant(dst, u64::from(imm as u32));
            }
            AluOp::Mov => self.load_constant(dst, imm as i64 as u64),
            AluOp::Mul => match (width, i8::try_from(imm)) {
                (Width::W64, Ok(imm)) => emit!(self, imul Rq(dst), Rq(dst), BYTE imm),
                (Width::W64, Err(_)) => emit!(self, imul Rq(dst), Rq(dst), DWORD imm),
                (Width::W32, Ok(imm)) => emit!(self, imul Rd(dst), Rd(dst), BYTE imm),
                (Width::W32, Err(_)) => emit!(self, imul Rd(dst), Rd(dst), DWORD imm),
            },
            AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => self.shift_immediate(width, op, dst, imm),
            AluOp::Div | AluOp::Mod | AluOp::Sdiv | AluOp::Smod => {
                self.divide_immediate(width, op, dst, imm);
            }
        }
    }

    /// Clears the upper half after a 32-bit operation that left the lower
    /// half as it was.
    fn truncate(&mut self, width: Width, dst: u8) {
        if width == Width::W32 {
            emit!(self, mov Rd(dst), Rd(dst));
        }
    }

    /// `dst = value`, in the shortest way. Changes flags.
    pub(super) fn load_constant(&mut self, dst: u8, value: u64) {
        if value == 0 {
            emit!(self, xor Rd(dst), Rd(dst));
        } else if let Ok(low) = u32::try_from(value) {
            emit!(self, mov Rd(dst), DWORD low as i32);
        } else if let Ok(low) = i32::try_from(value as i64) {
            emit!(self, mov Rq(dst), DWORD low);
        } else {
            emit!(self, mov Rq(dst), QWORD value as i64);
        }
    }

    /// `cmp dst, imm`. dynasm knows only the form with four bytes of `cmp`
    /// between a register chosen at run time and an immediate.
    pub(super) fn compare_immediate(&mut self, width: Width, dst: u8, imm: i32) {
        match width {
            Width::W64 => emit!(self, cmp Rq(dst), DWORD imm),
            Width::W32 => emit!(self, cmp Rd(dst), DWORD imm),
        }
        if let Ok(imm) = i8::try_from(imm) {
            self.buffer.shorten_immediate(imm);
        }
    }

    fn shift_immediate(&mut self, width: Width, op: AluOp, dst: u8, imm: i32) {
        let count = match width {
            Width::W64 => imm & 63,
            Width::W32 => imm & 31,
        } as i8;
        if count == 0 {
            return self.truncate(width, dst);
        }
        match (op, width) {
            (AluOp::Lsh, Width::W64) => emit!(self, shl Rq(dst), BYTE count),
            (AluOp::Lsh, Width::W32) => emit!(self, shl Rd(dst), BYTE count),
            (AluOp::Rsh, Width::W64) => emit!(self, shr Rq(dst), BYTE count),
            (AluOp::Rsh, Width::W32) => emit!(self, shr Rd(dst), BYTE count),
            (_, Width::W64) => emit!(self, sar Rq(dst), BYTE count),
            (_, Width::W32) => emit!(self, sar Rd(dst), BYTE count),
        }
    }

    fn shift(&mut self, width: Width, op: AluOp, dst: u8, count: u8) {
        if self.features.bmi2 {
            return match (op, width) {
                (AluOp::Lsh, Width::W64) => emit!(self, shlx Rq(dst), Rq(dst), Rq(count)),
                (AluOp::Lsh, Width::W32) => emit!(self, shlx Rd(dst), Rd(dst), Rd(count)),
                (AluOp::Rsh, Width::W64) => emit!(self, shrx Rq(dst), Rq(dst), Rq(count)),
                (AluOp::Rsh, Width::W32) => emit!(self, shrx Rd(dst), Rd(dst), Rd(count)),
                (_, Width::W64) => emit!(self, sarx Rq(dst), Rq(dst), Rq(count)),
                (_, Width::W32) => emit!(self, sarx Rd(dst), Rd(dst), Rd(count)),
            };
        }
        // Without BMI2 the count must be in cl, which is r4.
        if count == RCX {
            return self.shift_by_cl(width, op, dst);
        }
        if dst == RCX {
            // `count` may be r11, where r10 is put; r9 is free.
            emit!(self, mov Rq(R9), rcx);
            emit!(self, mov ecx, Rd(count));
            self.shift_by_cl(width, op, R9);
            emit!(self, mov rcx, Rq(R9));
        } else {
            emit!(self, mov Rq(R9), rcx);
            emit!(self, mov ecx, Rd(count));
            self.shift_by_cl(width, op, dst);
            emit!(self, mov rcx, Rq(R9));
        }
    }

    fn shift_by_cl(&mut self, width: Width, op: AluOp, dst: u8) {
        match (op, width) {
            (AluOp::Lsh, Width::W64) => emit!(self, shl Rq(dst), cl),
            (AluOp::Lsh, Width::W32) => emit!(self, shl Rd(dst), cl),
            (AluOp::Rsh, Width::W64) => emit!(self, shr Rq(dst), cl),
            (AluOp::Rsh, Width::W32) => emit!(self, shr Rd(dst), cl),
            (_, Width::W64) => emit!(self, sar Rq(dst), cl),
            (_, Width::W32) => emit!(self, sar Rd(dst), cl),
        }
    }

    /// Division by a constant: powers of two need no `div`, zero and -1 must
    /// not reach it.
    fn divide_immediate(&mut self, width: Width, op: AluOp, dst: u8, imm: i32) {
        match (op, imm) {
            (AluOp::Div | AluOp::Sdiv, 0) | (AluOp::Smod, -1) => self.load_constant(dst, 0),
            (AluOp::Mod | AluOp::Smod, 0) | (AluOp::Div | AluOp::Sdiv, 1) => {
                self.truncate(width, dst);
            }
            (AluOp::Sdiv, -1) => match width {
                Width::W64 => emit!(self, neg Rq(dst)),
                Width::W32 => emit!(self, neg Rd(dst)),
            },
            (AluOp::Div, 2..) if (imm as u32).is_power_of_two() => {
                self.shift_immediate(width, AluOp::Rsh, dst, imm.trailing_zeros() as i32);
            }
            (AluOp::Mod, 1..) if (imm as u32).is_power_of_two() => {
                by_immediate!(self, Width::W32, and, dst, imm - 1);
            }
            _ => {
                let divisor = match width {
                    Width::W64 => imm as i64 as u64,
                    Width::W32 => u64::from(imm as u32),
                };
                self.load_constant(R11, divisor);
                self.divide(width, op, dst);
            }
        }
    }

    fn divide_unsigned(&mut self, width: Width, op: AluOp, dst: u8, src: u8) {
        by_register!(self, width, mov, R11, src);
        by_register!(self, width, test, R11, R11);
        let by_zero = self.buffer.hop_if(Cc::E);
        self.divide(width, op, dst);
        let end = self.buffer.hop();
        self.buffer.land(by_zero);
        self.divided_by_zero(width, op, dst);
        self.buffer.land(end);
    }

    fn divide_signed(&mut self, width: Width, op: AluOp, dst: u8, src: u8) {
        by_register!(self, width, mov, R11, src);
        by_register!(self, width, test, R11, R11);
        let by_zero = self.buffer.hop_if(Cc::E);
        self.compare_immediate(width, R11, -1);
        let by_minus_one = self.buffer.hop_if(Cc::E);
        self.divide(width, op, dst);
        let end = self.buffer.hop();
        self.buffer.land(by_zero);
        self.divided_by_zero(width, op, dst);
        let end_of_zero = self.buffer.hop();
        self.buffer.land(by_minus_one);
        self.divide_immediate(width, op, dst, -1);
        self.buffer.land(end_of_zero);
        self.buffer.land(end);
    }

    fn divided_by_zero(&mut self, width: Width, op: AluOp, dst: u8) {
        match op {
            AluOp::Div | AluOp::Sdiv => self.load_constant(dst, 0),
            _ => self.truncate(width, dst),
        }
    }

    /// Divides `dst` by r11, which is neither 0 nor, if signed, -1. The
    /// processor divides rdx:rax; r9 and r10 keep what they held.
    fn divide(&mut self, width: Width, op: AluOp, dst: u8) {
        if dst != RAX {
            emit!(self, mov Rq(R10), rax);
        }
        if dst != RDX {
            emit!(self, mov Rq(R9), rdx);
        }
        if dst != RAX {
            by_register!(self, width, mov, RAX, dst);
        }
        match (op, width) {
            (AluOp::Div | AluOp::Mod, Width::W64) => {
                emit!(self, xor edx, edx);
                emit!(self, div Rq(R11));
            }
            (AluOp::Div | AluOp::Mod, Width::W32) => {
                emit!(self, xor edx, edx);
                emit!(self, div Rd(R11));
            }
            (_, Width::W64) => {
                emit!(self, cqo);
                emit!(self, idiv Rq(R11));
            }
            (_, Width::W32) => {
                emit!(self, cdq);
                emit!(self, idiv Rd(R11));
            }
        }
        let result = match op {
            AluOp::Div | AluOp::Sdiv => RAX,
            _ => RDX,
        };
        if dst != result {
            emit!(self, mov Rq(dst), Rq(result));
        }
        if dst != RAX {
            emit!(self, mov rax, Rq(R10));
        }
        if dst != RDX {
            emit!(self, mov rdx, Rq(R9));
        }
    }

    /// `dst = src` with the sign of its low bits, at a width.
    pub(super) fn move_extended(&mut self, width: Width, from: Size, dst: Reg, src: Reg) {
        let dst = self.machine(dst);
        let src = self.machine(src);
        match (from, width) {
            (Size::B, Width::W64) => emit_byte!(self, movsx Rq(dst), Rb(src)),
            (Size::B, Width::W32) => emit_byte!(self, movsx Rd(dst), Rb(src)),
            (Size::H, Width::W64) => emit!(self, movsx Rq(dst), Rw(src)),
            (Size::H, Width::W32) => emit!(self, movsx Rd(dst), Rw(src)),
            (Size::W, Width::W64) => emit!(self, movsxd Rq(dst), Rd(src)),
            // Decoding gives no wider source than the width.
            (_, width) => by_register!(self, width, mov, dst, src),
        }
    }
}
