//! Jumps and branches. Knows conditions and comparisons.

use super::Compiler;
use super::buffer::Cc;
use super::encode::{Arith, Gpr, Memory, RSP};
use super::operands::Source;
use crate::jit::flow::jump_target;
use crate::link::{LinkError, Step};
use crate::op::{Cond, Op, Operand, Reg, Size, Width};

/// `dst cond src` at a width.
#[derive(Clone, Copy)]
pub(super) struct Comparison {
    pub width: Width,
    pub cond: Cond,
    pub dst: Reg,
    pub src: Operand,
}

impl Compiler<'_> {
    /// `goto to` from slot `at`.
    pub(super) fn jump(&mut self, at: usize, to: usize) {
        self.settle_all(self.after);
        self.values.keep(0);
        if to != at + 1 {
            self.buffer.jump(to);
        }
    }

    /// `if comparison goto to`, of which `at` is the slot. Tells whether the
    /// step that follows is part of it.
    pub(super) fn branch(&mut self, at: usize, comparison: Comparison, to: usize) -> bool {
        if to == at + 1 {
            return false;
        }
        self.settle_all(self.after);
        let cc = self.compare(comparison);
        if let Some(over) = self.jump_over(at, to) {
            self.buffer.jump_if(cc.inverted(), over);
            return true;
        }
        self.buffer.jump_if(cc, to);
        false
    }

    /// Takes one from the budget, or jumps from `at` to `to` when there is none.
    pub(super) fn may_goto(&mut self, at: usize, to: usize) -> Result<(), LinkError> {
        let Some(loops) = self.frame.loops else {
            return Err(LinkError::Target { insn: at });
        };
        if to == at + 1 {
            return Ok(());
        }
        self.settle_all(self.after);
        let budget = Memory::at(RSP, loops.into());
        self.asm().arith_imm(Arith::Cmp, Width::W32, budget, 0);
        self.buffer.jump_if(Cc::E, to);
        self.asm().arith_imm(Arith::Sub, Width::W32, budget, 1);
        Ok(())
    }

    /// Where a branch from `at` to `to` leads if it is not taken, if it only
    /// jumps over a jump.
    fn jump_over(&self, at: usize, to: usize) -> Option<usize> {
        let next = self.code.steps.get(at + 1)?;
        let is_jump = matches!(next, Step::Op(Op::Jump { .. }));
        if !self.optimisations.inverted_branches || !is_jump || self.flow.leaders[at + 1] {
            return None;
        }
        jump_target(at + 1, next).filter(|&over| to == at + 2 && over != at + 2)
    }

    /// Compares; the condition under which the branch is taken.
    fn compare(&mut self, comparison: Comparison) -> Cc {
        let Comparison { cond, dst, src, .. } = comparison;
        let width = self.compared_width(comparison);
        let src = self.simplified(src, width);
        if let Operand::Imm(imm) = src
            && let Some(cc) = self.compare_memory(width, cond, dst, imm)
        {
            return cc;
        }
        if src == Operand::Reg(dst) {
            self.settle(dst);
        } else {
            self.prepare_source(src, width);
        }
        self.prepare(dst, width);
        // Preparing one does not undo the other: what is settled stays so.
        let src = self.source(src, width);
        let left = self.register(dst, width);
        match (cond, src) {
            (Cond::Set, Source::Imm(imm)) => self.test_immediate(width, left, imm),
            (Cond::Set, Source::Reg(src)) => self.asm().test(width, left, src),
            (Cond::Set, Source::Mem(src)) => self.asm().test(width, src, left),
            // Leaves the flags that a comparison with 0 does, in fewer bytes.
            (_, Source::Imm(0)) => self.asm().test(width, left, left),
            (_, Source::Imm(imm)) => self.asm().arith_imm(Arith::Cmp, width, left, imm),
            (_, Source::Reg(src)) => self.asm().arith(Arith::Cmp, width, left, src),
            (_, Source::Mem(src)) => self.asm().arith(Arith::Cmp, width, left, src),
        }
        condition(cond)
    }

    fn test_immediate(&mut self, width: Width, left: Gpr, imm: i32) {
        match u8::try_from(imm) {
            Ok(imm) if self.optimisations.short_encodings => self.asm().test_byte(left, imm),
            _ if imm >= 0 => self.asm().test_imm(Width::W32, left, imm),
            _ => self.asm().test_imm(width, left, imm),
        }
    }

    /// The shortest width that compares the same.
    fn compared_width(&self, comparison: Comparison) -> Width {
        let Comparison {
            width,
            cond,
            dst,
            src,
        } = comparison;
        if !self.optimisations.short_encodings || width == Width::W32 {
            return width;
        }
        let highest = match cond {
            Cond::Sgt | Cond::Sge | Cond::Slt | Cond::Sle => i32::MAX as u64,
            _ => u64::from(u32::MAX),
        };
        let bits = self.bits.of(dst) | self.bits.of_operand(src, Width::W64);
        if bits <= highest { Width::W32 } else { width }
    }

    /// Compares where the load of `dst` would be, if it is needed here only.
    fn compare_memory(&mut self, width: Width, cond: Cond, dst: Reg, imm: i32) -> Option<Cc> {
        if cond == Cond::Set {
            return None;
        }
        let own = super::operands::full(width);
        if let Some(from) = self.loaded(dst, own) {
            let memory = self.memory_of(from, 0);
            self.asm().arith_imm(Arith::Cmp, width, memory, imm);
            return Some(condition(cond));
        }
        // The rest is zero and the constant is not negative: the order of
        // the low part as an unsigned number is that of all of it.
        if let Some(from) = self.loaded(dst, Size::B)
            && let Ok(imm) = u8::try_from(imm)
        {
            let memory = self.memory_of(from, 0);
            self.asm().compare_byte(memory, imm);
            return Some(condition(unsigned(cond)));
        }
        if width == Width::W64
            && imm >= 0
            && let Some(from) = self.loaded(dst, Size::W)
        {
            let memory = self.memory_of(from, 0);
            self.asm().arith_imm(Arith::Cmp, Width::W32, memory, imm);
            return Some(condition(unsigned(cond)));
        }
        None
    }
}

/// The same order among unsigned numbers.
fn unsigned(cond: Cond) -> Cond {
    match cond {
        Cond::Sgt => Cond::Gt,
        Cond::Sge => Cond::Ge,
        Cond::Slt => Cond::Lt,
        Cond::Sle => Cond::Le,
        other => other,
    }
}

fn condition(cond: Cond) -> Cc {
    match cond {
        Cond::Eq => Cc::E,
        Cond::Ne | Cond::Set => Cc::NE,
        Cond::Gt => Cc::A,
        Cond::Ge => Cc::AE,
        Cond::Lt => Cc::B,
        Cond::Le => Cc::BE,
        Cond::Sgt => Cc::G,
        Cond::Sge => Cc::GE,
        Cond::Slt => Cc::L,
        Cond::Sle => Cc::LE,
    }
}
