//! A load, an operation and a store to the same place become one instruction
//! on memory. It is no more atomic than the three. Knows no other pairs.

use super::Compiler;
use super::encode::{Arith, Gpr};
use super::values::{Load, Sum, Value};
use crate::jit::flow::bit;
use crate::link::Step;
use crate::op::{AluOp, Op, Operand, Reg, Size, Width};

/// What follows a load: `dst op= src`.
#[derive(Clone, Copy)]
pub(super) struct Modification {
    pub width: Width,
    pub op: AluOp,
    pub dst: Reg,
    pub src: Operand,
}

impl Compiler<'_> {
    /// Compiles the step at `at`, a modification, and the next, if that only
    /// stores its result where the operand was loaded from.
    pub(super) fn modify(&mut self, at: usize, modification: Modification) -> bool {
        let Modification { op, dst, src, .. } = modification;
        let Some(op) = arith(op) else { return false };
        if !self.optimisations.memory_operands || self.modified(at, modification).is_none() {
            return false;
        }
        // A source that is a constant or in its register changes nothing here.
        let source = match self.simplified(src, modification.width) {
            Operand::Imm(imm) => Err(imm),
            Operand::Reg(src) if src == dst || src == Reg::R10 => return false,
            Operand::Reg(src) => {
                self.prepare(src, modification.width);
                Ok(src)
            }
        };
        let Some((from, width)) = self.modified(at, modification) else {
            return false;
        };
        self.values.forget(dst);
        self.settle_loads();
        self.stored = None;
        let memory = self.memory_of(from, 0);
        match source {
            Err(imm) => self.asm().arith_imm(op, width, memory, imm),
            Ok(src) => {
                let src: Gpr = self.register(src, modification.width);
                self.asm().arith_store(op, width, memory, src);
            }
        }
        true
    }

    /// The place that is modified and the width of it, if this is such a pair.
    fn modified(&self, at: usize, modification: Modification) -> Option<(Sum, Width)> {
        let Modification { width, dst, .. } = modification;
        let next = self.code.steps.get(at + 1)?;
        let Step::Op(Op::Store { size, addr, src }) = *next else {
            return None;
        };
        let needed = self.flow.live_after(at + 1, next) & bit(dst) != 0;
        if needed || src != Operand::Reg(dst) || addr.base == dst || self.flow.leaders[at + 1] {
            return None;
        }
        let Value::Load(Load {
            from,
            bytes,
            swapped: false,
            shift: 0,
        }) = self.values.get(dst)?
        else {
            return None;
        };
        let width = match (size, width) {
            (Size::W, _) => Width::W32,
            (Size::DW, Width::W64) => Width::W64,
            _ => return None,
        };
        // Nothing that is settled first may change the address.
        let steady = from.reads() & self.values.described() & !bit(dst) == 0;
        let based = match self.values.get(addr.base) {
            None => true,
            Some(Value::Sum(sum)) => sum.width == Width::W64,
            Some(_) => false,
        };
        let same = based && self.address_sum(addr) == from;
        let whole = u32::from(bytes) * 8 == size.bits();
        (steady && same && whole).then_some((from, width))
    }
}

/// The operation as there is one on memory.
fn arith(op: AluOp) -> Option<Arith> {
    match op {
        AluOp::Add => Some(Arith::Add),
        AluOp::Sub => Some(Arith::Sub),
        AluOp::Or => Some(Arith::Or),
        AluOp::And => Some(Arith::And),
        AluOp::Xor => Some(Arith::Xor),
        _ => None,
    }
}
