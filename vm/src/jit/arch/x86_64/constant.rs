//! Division by constants, as multiplication with the reciprocal (Granlund and
//! Montgomery, "Division by invariant integers using multiplication").
//! Knows neither 0, 1 nor -1 as divisor.

use super::Compiler;
use super::encode::{Arith, R9, R10, R11, RAX, RDX, Shift, Unary};
use super::values::machine;
use crate::op::{AluOp, Reg, Width};

impl Compiler<'_> {
    /// `dst = dst op imm` without dividing, if there is a way.
    pub(super) fn divide_by_constant(
        &mut self,
        width: Width,
        op: AluOp,
        dst: Reg,
        imm: i32,
    ) -> bool {
        if !self.optimisations.constant_division {
            return false;
        }
        let remainder = matches!(op, AluOp::Mod | AluOp::Smod);
        if let AluOp::Div | AluOp::Mod = op {
            let (divisor, ok) = match width {
                Width::W32 => (imm as u32, true),
                Width::W64 => (imm as u32, imm > 0 && self.bmi2()),
            };
            if !ok || divisor.is_power_of_two() {
                return false;
            }
            match width {
                Width::W32 => self.divide_narrow(dst, divisor, remainder),
                Width::W64 => self.divide_wide(dst, divisor.into(), remainder),
            }
            return true;
        }
        let size = imm.unsigned_abs();
        if size.is_power_of_two() {
            // The most negative number is not a power of two as such.
            if imm == i32::MIN {
                return false;
            }
            self.divide_signed_shifting(width, dst, size.trailing_zeros() as u8, remainder);
        } else if width == Width::W32 {
            self.divide_signed_narrow(dst, size, remainder);
        } else {
            self.divide_signed_wide(dst, size, remainder);
        }
        if imm < 0 && !remainder {
            self.negate(width, dst);
        }
        true
    }

    /// `r11 = quotient` to `dst = quotient or remainder`.
    fn quotient_to(&mut self, width: Width, dst: Reg, divisor: u32, remainder: bool) {
        let dst = machine(dst);
        if remainder {
            self.asm().multiply_imm(width, R11, R11, divisor as i32);
            self.asm().arith(Arith::Sub, width, dst, R11);
        } else {
            self.asm().mov(width, dst, R11);
        }
    }

    /// 32 bits by any divisor but powers of two: the product has 64 bits.
    fn divide_narrow(&mut self, dst: Reg, divisor: u32, remainder: bool) {
        let narrow = self.bits.is_narrow(dst);
        self.vacate(dst);
        self.settle(dst);
        let x = machine(dst);
        if !narrow {
            self.asm().mov(Width::W32, x, x);
        }
        let log = 32 - (divisor - 1).leading_zeros();
        let power = 1u64 << (31 + log);
        let reciprocal = power.div_ceil(divisor.into());
        // So precise that no number of 32 bits is off.
        if reciprocal * u64::from(divisor) - power <= 1 << (log - 1) {
            self.asm().constant(R11, reciprocal);
            self.asm().multiply(Width::W64, R11, x);
            self.asm()
                .shift_imm(Shift::Shr, Width::W64, R11, 31 + log as u8);
        } else {
            // 33 bits, of which the first is a one: (((x - t) / 2) + t) / ...,
            // where t is the product with the others.
            let reciprocal = (u128::from(power) << 1).div_ceil(divisor.into());
            self.asm().constant(R11, (reciprocal as u32).into());
            self.asm().multiply(Width::W64, R11, x);
            self.asm().shift_imm(Shift::Shr, Width::W64, R11, 32);
            self.asm().mov(Width::W32, R10, x);
            self.asm().arith(Arith::Sub, Width::W32, R10, R11);
            self.asm().shift_imm(Shift::Shr, Width::W32, R10, 1);
            self.asm().arith(Arith::Add, Width::W32, R11, R10);
            self.asm()
                .shift_imm(Shift::Shr, Width::W32, R11, log as u8 - 1);
        }
        self.quotient_to(Width::W32, dst, divisor, remainder);
    }

    /// 64 bits by any divisor but powers of two: the upper half of 128 bits.
    fn divide_wide(&mut self, dst: Reg, divisor: u64, remainder: bool) {
        self.vacate(dst);
        self.settle(dst);
        let x = machine(dst);
        let log = 64 - (divisor - 1).leading_zeros();
        let power = 1u128 << (63 + log);
        let reciprocal = power.div_ceil(divisor.into());
        let precise = reciprocal * u128::from(divisor) - power <= 1 << (log - 1);
        let factor = if precise {
            reciprocal as u64
        } else {
            // 65 bits, of which the first is a one.
            ((power << 1).div_ceil(divisor.into())) as u64
        };
        let keeps = x != RDX;
        if keeps {
            self.asm().mov(Width::W64, R9, RDX);
            self.asm().mov(Width::W64, RDX, x);
        }
        self.asm().constant(R11, factor);
        self.asm().multiply_high(Width::W64, R11, R11);
        if keeps {
            self.asm().mov(Width::W64, RDX, R9);
        }
        if !precise {
            self.asm().mov(Width::W64, R10, x);
            self.asm().arith(Arith::Sub, Width::W64, R10, R11);
            self.asm().shift_imm(Shift::Shr, Width::W64, R10, 1);
            self.asm().arith(Arith::Add, Width::W64, R11, R10);
        }
        if log > 1 {
            self.asm()
                .shift_imm(Shift::Shr, Width::W64, R11, log as u8 - 1);
        }
        self.quotient_to(Width::W64, dst, divisor as u32, remainder);
    }

    /// By 2 to the power of `count`, which is not 0: rounds towards zero.
    fn divide_signed_shifting(&mut self, width: Width, dst: Reg, count: u8, remainder: bool) {
        self.vacate(dst);
        self.settle(dst);
        let x = machine(dst);
        let bits = match width {
            Width::W32 => 32,
            Width::W64 => 64,
        };
        self.asm().mov(width, R11, x);
        self.asm().shift_imm(Shift::Sar, width, R11, bits - 1);
        self.asm().shift_imm(Shift::Shr, width, R11, bits - count);
        self.asm().arith(Arith::Add, width, R11, x);
        self.asm().shift_imm(Shift::Sar, width, R11, count);
        if remainder {
            self.asm().shift_imm(Shift::Shl, width, R11, count);
            self.asm().arith(Arith::Sub, width, x, R11);
        } else {
            self.asm().mov(width, x, R11);
        }
    }

    /// 32 bits with a sign by any divisor but powers of two.
    fn divide_signed_narrow(&mut self, dst: Reg, divisor: u32, remainder: bool) {
        self.vacate(dst);
        self.settle(dst);
        let log = 32 - (divisor - 1).leading_zeros();
        let reciprocal = (1u64 << (31 + log)) / u64::from(divisor) + 1;
        self.asm()
            .sign_extend(Width::W64, crate::op::Size::W, R10, machine(dst));
        self.asm().constant(R11, reciprocal);
        self.asm().multiply(Width::W64, R11, R10);
        self.asm()
            .shift_imm(Shift::Sar, Width::W64, R11, 31 + log as u8);
        // One more for negative numbers.
        self.asm().shift_imm(Shift::Sar, Width::W64, R10, 63);
        self.asm().arith(Arith::Sub, Width::W32, R11, R10);
        self.quotient_to(Width::W32, dst, divisor, remainder);
    }

    /// 64 bits with a sign by any divisor but powers of two.
    fn divide_signed_wide(&mut self, dst: Reg, divisor: u32, remainder: bool) {
        self.before_division(dst);
        self.settle(dst);
        let log = 32 - (divisor - 1).leading_zeros();
        // Of 64 bits, the first of which is a one.
        let reciprocal = (1u128 << (63 + log)) / u128::from(divisor) + 1;
        self.asm().mov(Width::W64, R11, machine(dst));
        self.with_rax_and_rdx(dst, |compiler| {
            let asm = compiler.asm();
            asm.constant(RAX, reciprocal as u64);
            asm.unary(Unary::Imul, Width::W64, R11);
            // As a signed factor it is less by 2 to the power of 64.
            asm.arith(Arith::Add, Width::W64, RDX, R11);
            asm.shift_imm(Shift::Sar, Width::W64, RDX, log as u8 - 1);
            // One more for negative numbers.
            asm.mov(Width::W64, RAX, R11);
            asm.shift_imm(Shift::Shr, Width::W64, RAX, 63);
            asm.arith(Arith::Add, Width::W64, RDX, RAX);
            if remainder {
                asm.multiply_imm(Width::W64, RDX, RDX, divisor as i32);
                asm.arith(Arith::Sub, Width::W64, R11, RDX);
            } else {
                asm.mov(Width::W64, R11, RDX);
            }
        });
        self.asm().mov(Width::W64, machine(dst), R11);
    }
}
