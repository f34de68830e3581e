//! Sums that are not computed until someone needs them in a register: address
//! arithmetic disappears into memory operands, the rest into `lea`. Also
//! copies, which are sums of one. Knows which operations are sums.

use super::Compiler;
use super::values::{Sum, Value};
use crate::op::{AluOp, Operand, Reg, Width};

/// Displacements of sums of 64 bits stay below this, so that an offset and
/// the frame's size can be added.
const MAX_DISP: u32 = 1 << 30;

impl Compiler<'_> {
    /// `dst = src`.
    pub(super) fn copy(&mut self, width: Width, dst: Reg, src: Reg) {
        let narrow = width == Width::W32 && !self.bits.is_narrow(src);
        if dst == src && !narrow {
            return;
        }
        if !self.optimisations.copies {
            self.vacate(dst);
            self.settle(src);
            let from = self.register(src, width);
            let dst = self.overwrite(dst);
            return self.asm().mov(width, dst, from);
        }
        let value = match self.values.get(src) {
            None => Value::Sum(Sum::of(src)),
            Some(value @ (Value::Load(_) | Value::Shifted { .. })) if !narrow && self.dies(src) => {
                self.values.forget(src);
                value
            }
            // Two registers are added once.
            Some(Value::Sum(sum)) if sum.index.is_some() && src != dst && !self.dies(src) => {
                self.settle(src);
                Value::Sum(Sum::of(src))
            }
            Some(value @ (Value::Sum(_) | Value::Constant(_))) => value,
            Some(_) => {
                self.settle(src);
                Value::Sum(Sum::of(src))
            }
        };
        let value = match value {
            Value::Sum(sum) if narrow => Value::Sum(Sum {
                width: Width::W32,
                ..sum
            }),
            Value::Constant(value) if narrow => Value::Constant(value & u64::from(u32::MAX)),
            other => other,
        };
        self.defer(dst, value);
    }

    /// `dst = value`.
    pub(super) fn set_constant(&mut self, dst: Reg, value: u64) {
        if self.optimisations.copies {
            return self.defer(dst, Value::Constant(value));
        }
        let dst = self.overwrite(dst);
        self.asm().constant(dst, value);
    }

    /// Makes `dst` stand for `dst op src` if that is a sum.
    pub(super) fn sum(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) -> bool {
        if !self.optimisations.addresses {
            return false;
        }
        let (op, exact) = self.as_sum(width, op, dst, src);
        let Some(op) = op else { return false };
        // A load that is needed here only is better an operand.
        if let Operand::Reg(src) = src
            && self.loaded(src, super::operands::full(width)).is_some()
        {
            return false;
        }
        let own = self.own_sum(dst, width);
        let result = match op {
            SumOp::Plus(imm) => plus(own, imm, width, exact),
            SumOp::Scaled(count) => scaled(own, count, width, exact).or_else(|| {
                self.settle(dst);
                scaled(Sum::of(dst), count, width, exact)
            }),
            SumOp::Multiplied(count) => {
                let copied = own.copied().unwrap_or_else(|| {
                    self.settle(dst);
                    dst
                });
                // Of the lower half, if that is all that was copied.
                let own = self.own_sum(dst, width);
                let sum = Sum {
                    base: Some(copied),
                    index: Some((copied, count)),
                    ..own
                };
                finished(sum, width, exact)
            }
            SumOp::PlusRegister(src) => self.add_sums(dst, src, width, exact),
        };
        let Some(sum) = result else { return false };
        self.defer(dst, Value::Sum(sum));
        true
    }

    /// What `dst op src` is as a sum, and whether its lower half is all of it.
    fn as_sum(&self, width: Width, op: AluOp, dst: Reg, src: Operand) -> (Option<SumOp>, bool) {
        let a = self.bits.of_operand(Operand::Reg(dst), width);
        let b = self.bits.of_operand(src, width);
        let low = u64::from(u32::MAX);
        let whole = self.bits.is_narrow(dst);
        let fits = |value: Option<u64>| whole && value.is_some_and(|value| value <= low);
        match (op, src) {
            (AluOp::Add, Operand::Imm(imm)) => {
                (Some(SumOp::Plus(imm)), imm >= 0 && fits(a.checked_add(b)))
            }
            (AluOp::Sub, Operand::Imm(imm)) if imm != i32::MIN => (Some(SumOp::Plus(-imm)), false),
            (AluOp::Add, Operand::Reg(src)) if src == dst => {
                (Some(SumOp::Scaled(1)), fits(a.checked_mul(2)))
            }
            (AluOp::Add, Operand::Reg(src)) => {
                let exact = self.bits.is_narrow(src) && fits(a.checked_add(b));
                (Some(SumOp::PlusRegister(src)), exact)
            }
            (AluOp::Or, Operand::Imm(imm)) if imm >= 0 && a & b == 0 => {
                (Some(SumOp::Plus(imm)), whole)
            }
            (AluOp::Or, Operand::Reg(src)) if src != dst && a & b == 0 => {
                let exact = whole && self.bits.is_narrow(src);
                (Some(SumOp::PlusRegister(src)), exact)
            }
            (AluOp::Lsh, Operand::Imm(imm @ 1..=3)) => {
                let exact = fits(a.checked_mul(1 << imm));
                (Some(SumOp::Scaled(imm as u8)), exact)
            }
            (AluOp::Mul, Operand::Imm(imm @ (3 | 5 | 9))) => {
                let exact = fits(a.checked_mul(imm as u64));
                let count = (imm - 1).trailing_zeros() as u8;
                (Some(SumOp::Multiplied(count)), exact)
            }
            _ => (None, false),
        }
    }

    /// The sum that `reg` stands for; settles it if it does not.
    fn own_sum(&mut self, reg: Reg, width: Width) -> Sum {
        match self.values.get(reg) {
            Some(Value::Sum(sum)) if width == Width::W32 || sum.width == Width::W64 => sum,
            _ => {
                self.settle(reg);
                Sum::of(reg)
            }
        }
    }

    /// `dst + src`. What does not fit into one sum is settled.
    fn add_sums(&mut self, dst: Reg, src: Reg, width: Width, exact: bool) -> Option<Sum> {
        // Settling one may settle the other: only then ask.
        self.own_sum(dst, width);
        let other = self.own_sum(src, width);
        let own = self.own_sum(dst, width);
        if let Some(sum) = added(own, other, width, exact) {
            return Some(sum);
        }
        if src != Reg::R10 {
            self.settle(src);
        }
        let own = self.own_sum(dst, width);
        if let Some(sum) = added(own, Sum::of(src), width, exact) {
            return Some(sum);
        }
        self.settle(dst);
        added(Sum::of(dst), Sum::of(src), width, exact)
    }
}

/// An operation that makes a sum of a sum.
enum SumOp {
    Plus(i32),
    PlusRegister(Reg),
    /// Shifted left by 1 to 3.
    Scaled(u8),
    /// Itself plus itself shifted left.
    Multiplied(u8),
}

/// The sum at the width of the operation that made it; `None` if its
/// displacement is too large.
fn finished(sum: Sum, width: Width, exact: bool) -> Option<Sum> {
    let width = match (sum.width, width) {
        (Width::W64, Width::W32) if exact => Width::W64,
        (Width::W64, other) => other,
        (Width::W32, _) => Width::W32,
    };
    let fits = width == Width::W32 || sum.disp.unsigned_abs() < MAX_DISP;
    fits.then_some(Sum { width, ..sum })
}

/// Of 32 bits, displacements wrap around as the sum does.
fn displaced(a: i32, b: i32, width: Width, exact: bool) -> Option<i32> {
    match width {
        Width::W32 if !exact => Some(a.wrapping_add(b)),
        _ => a.checked_add(b),
    }
}

fn plus(sum: Sum, imm: i32, width: Width, exact: bool) -> Option<Sum> {
    let disp = displaced(sum.disp, imm, width, exact)?;
    finished(Sum { disp, ..sum }, width, exact)
}

fn scaled(sum: Sum, count: u8, width: Width, exact: bool) -> Option<Sum> {
    let (reg, scale) = match (sum.base, sum.index) {
        (Some(base), None) if base != Reg::R10 => (base, 0),
        (None, Some(index)) => index,
        _ => return None,
    };
    if scale + count > 3 {
        return None;
    }
    let disp = sum.disp.checked_mul(1 << count)?;
    let sum = Sum {
        base: None,
        index: Some((reg, scale + count)),
        disp,
        ..sum
    };
    finished(sum, width, exact)
}

fn added(a: Sum, b: Sum, width: Width, exact: bool) -> Option<Sum> {
    let mut base = None;
    let mut index = None;
    let terms = [a.base, b.base].into_iter().flatten().map(|reg| (reg, 0));
    let scaled = [a.index, b.index].into_iter().flatten();
    for (reg, scale) in scaled.chain(terms) {
        match (scale, base, index) {
            (0, None, _) => base = Some(reg),
            (_, _, None) if reg != Reg::R10 => index = Some((reg, scale)),
            // r10 cannot be multiplied by anything.
            (0, Some(other), None) if other != Reg::R10 => {
                base = Some(reg);
                index = Some((other, 0));
            }
            _ => return None,
        }
    }
    let sum = Sum {
        base,
        index,
        disp: displaced(a.disp, b.disp, width, exact)?,
        width: match (a.width, b.width) {
            (Width::W64, Width::W64) => Width::W64,
            _ => Width::W32,
        },
    };
    finished(sum, width, exact)
}
