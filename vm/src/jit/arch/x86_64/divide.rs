//! Division. By zero and of the quotient that does not fit it follows
//! RFC 9669, where the processor would trap; constants need no such care
//! (`constant`). Knows what `div` wants.

use super::Compiler;
use super::buffer::Cc;
use super::encode::{Arith, Gpr, R9, R10, R11, RAX, RDX, Unary};
use super::values::machine;
use crate::jit::flow::bit;
use crate::op::{AluOp, Operand, Reg, Width};

/// The program's register in rdx.
const R3: Reg = match Reg::new(3) {
    Some(reg) => reg,
    None => Reg::R0,
};

impl Compiler<'_> {
    /// `dst = dst op src`, where `op` divides.
    pub(super) fn divide(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) {
        let narrow = match src {
            Operand::Reg(src) => self.bits.is_narrow(src),
            Operand::Imm(imm) => imm >= 0,
        };
        let unsigned = matches!(op, AluOp::Div | AluOp::Mod);
        let width = if unsigned && narrow && self.bits.is_narrow(dst) {
            Width::W32
        } else {
            width
        };
        match src {
            Operand::Imm(imm) => self.divide_immediate(width, op, dst, imm),
            Operand::Reg(src) => self.divide_register(width, op, dst, src),
        }
    }

    fn divide_immediate(&mut self, width: Width, op: AluOp, dst: Reg, imm: i32) {
        match (op, imm) {
            (AluOp::Div | AluOp::Sdiv, 0) | (AluOp::Smod, -1 | 1) | (AluOp::Mod, 1) => {
                self.set_constant(dst, 0);
            }
            (AluOp::Mod | AluOp::Smod, 0) | (AluOp::Div | AluOp::Sdiv, 1) => {
                self.copy(width, dst, dst);
            }
            (AluOp::Sdiv, -1) => self.negate(width, dst),
            (AluOp::Div, 2..) if (imm as u32).is_power_of_two() => {
                let count = Operand::Imm(imm.trailing_zeros() as i32);
                self.alu(width, AluOp::Rsh, dst, count);
            }
            (AluOp::Mod, 2..) if (imm as u32).is_power_of_two() => {
                self.alu(Width::W32, AluOp::And, dst, Operand::Imm(imm - 1));
            }
            _ if self.divide_by_constant(width, op, dst, imm) => {}
            _ => {
                self.before_division(dst);
                self.settle(dst);
                let divisor = match width {
                    Width::W64 => imm as i64 as u64,
                    Width::W32 => u64::from(imm as u32),
                };
                self.asm().constant(R11, divisor);
                self.divide_by_r11(width, op, dst);
            }
        }
    }

    /// Frees rax and rdx of all that other registers are described by.
    pub(super) fn before_division(&mut self, dst: Reg) {
        for reg in [dst, Reg::R0, R3] {
            self.vacate(reg);
        }
    }

    /// Whether what the machine register of `reg` holds is of no use after
    /// this instruction.
    pub(super) fn is_free(&self, reg: Reg) -> bool {
        let described = self.values.described() & bit(reg) != 0;
        let dead = self.dies(reg) || described && !self.values.reads_itself(reg);
        dead && self.values.readers(reg) == 0
    }

    fn divide_register(&mut self, width: Width, op: AluOp, dst: Reg, src: Reg) {
        let signed = matches!(op, AluOp::Sdiv | AluOp::Smod);
        let nonzero = self.bits.is_nonzero(width, src);
        self.before_division(dst);
        self.prepare(src, width);
        self.settle(dst);
        let divisor = self.register(src, width);
        if divisor != R11 {
            self.asm().mov(width, R11, divisor);
        }
        if nonzero && !signed {
            return self.divide_by_r11(width, op, dst);
        }
        self.asm().test(width, R11, R11);
        let by_zero = self.buffer.hop_if(Cc::E);
        let by_minus_one = signed.then(|| {
            self.asm().arith_imm(Arith::Cmp, width, R11, -1);
            self.buffer.hop_if(Cc::E)
        });
        self.divide_by_r11(width, op, dst);
        let end = self.buffer.hop();
        let dst = machine(dst);
        if let Some(by_minus_one) = by_minus_one {
            self.buffer.land(by_minus_one);
            match op {
                AluOp::Sdiv => self.asm().unary(Unary::Neg, width, dst),
                _ => self.asm().constant(dst, 0),
            }
            let end = self.buffer.hop();
            self.buffer.land(by_zero);
            self.divided_by_zero(width, op, dst);
            self.buffer.land(end);
        } else {
            self.buffer.land(by_zero);
            self.divided_by_zero(width, op, dst);
        }
        self.buffer.land(end);
    }

    fn divided_by_zero(&mut self, width: Width, op: AluOp, dst: Gpr) {
        match op {
            AluOp::Div | AluOp::Sdiv => self.asm().constant(dst, 0),
            _ if width == Width::W32 => self.asm().mov(width, dst, dst),
            _ => {}
        }
    }

    /// Divides `dst` by r11, which is neither 0 nor, if signed, -1.
    fn divide_by_r11(&mut self, width: Width, op: AluOp, reg: Reg) {
        self.with_rax_and_rdx(reg, |compiler| {
            let (asm, dst) = (compiler.asm(), machine(reg));
            if dst != RAX {
                asm.mov(width, RAX, dst);
            }
            if let AluOp::Div | AluOp::Mod = op {
                asm.arith(Arith::Xor, Width::W32, RDX, RDX);
                asm.unary(Unary::Div, width, R11);
            } else {
                asm.sign_into_rdx(width);
                asm.unary(Unary::Idiv, width, R11);
            }
            let result = match op {
                AluOp::Div | AluOp::Sdiv => RAX,
                _ => RDX,
            };
            if dst != result {
                asm.mov(Width::W64, dst, result);
            }
        });
    }

    /// Lets `emit` change rax and rdx, which the processor multiplies and
    /// divides in; r9 and r10 keep what they held, if that is needed after
    /// an instruction that overwrites `dst`.
    pub(super) fn with_rax_and_rdx(&mut self, dst: Reg, emit: impl FnOnce(&mut Self)) {
        let keeps_rax = dst != Reg::R0 && !self.is_free(Reg::R0);
        let keeps_rdx = dst != R3 && !self.is_free(R3);
        if keeps_rax {
            self.asm().mov(Width::W64, R10, RAX);
        }
        if keeps_rdx {
            self.asm().mov(Width::W64, R9, RDX);
        }
        emit(self);
        if keeps_rax {
            self.asm().mov(Width::W64, RAX, R10);
        }
        if keeps_rdx {
            self.asm().mov(Width::W64, RDX, R9);
        }
    }
}
