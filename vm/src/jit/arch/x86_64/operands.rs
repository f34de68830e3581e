//! Operands of instructions: first [`Compiler::prepare`] everything that an
//! instruction names, which may emit code, then ask for the operands, which
//! emits none that would change another. Knows no operation.

use super::encode::{Gpr, Memory, R11};
use super::values::{Load, Sum, Value, machine};
use super::{Compiler, frame};
use crate::jit::flow::bit;
use crate::op::{Address, Operand, Reg, Size, Width};

/// A second operand as an instruction takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Imm(i32),
    Reg(Gpr),
    Mem(Memory),
}

impl Compiler<'_> {
    /// Whether nobody needs the value of `reg` after this instruction.
    pub(super) fn dies(&self, reg: Reg) -> bool {
        self.after & bit(reg) == 0
    }

    /// The constant that `reg` stands for, as an immediate of that width.
    pub(super) fn constant_of(&self, reg: Reg, width: Width) -> Option<i32> {
        match (self.values.get(reg)?, width) {
            (Value::Constant(value), Width::W32) => Some(value as i32),
            (Value::Constant(value), Width::W64) => i32::try_from(value as i64).ok(),
            _ => None,
        }
    }

    /// The operand with constants for registers that stand for one.
    pub(super) fn simplified(&self, operand: Operand, width: Width) -> Operand {
        let constant = match operand {
            Operand::Reg(reg) => self.constant_of(reg, width),
            Operand::Imm(_) => None,
        };
        constant.map_or(operand, Operand::Imm)
    }

    /// The register whose machine register has the value of `reg` too, as
    /// far as `width` goes; `None` if there is none yet.
    pub(super) fn copied(&self, reg: Reg, width: Width) -> Option<Reg> {
        match self.values.get(reg) {
            None => Some(reg),
            Some(Value::Sum(sum)) if width == Width::W32 || sum.width == Width::W64 => sum.copied(),
            Some(_) => None,
        }
    }

    /// The load that `reg` stands for if it is as wide as `size`, may be
    /// part of another instruction, and is needed there only.
    pub(super) fn loaded(&self, reg: Reg, size: Size) -> Option<Sum> {
        let bytes = size.bits() as u8 / 8;
        match self.values.get(reg)? {
            Value::Load(Load {
                from,
                bytes: width,
                swapped: false,
                shift: 0,
            }) if width == bytes && self.optimisations.memory_operands && self.dies(reg) => {
                Some(from)
            }
            _ => None,
        }
    }

    /// Makes `reg` usable as [`Compiler::source`] or [`Compiler::register`].
    pub(super) fn prepare(&mut self, reg: Reg, width: Width) {
        if self.copied(reg, width).is_none() {
            self.settle(reg);
        }
    }

    /// Makes an operand usable as [`Compiler::source`] that may be in memory.
    pub(super) fn prepare_source(&mut self, operand: Operand, width: Width) {
        if let Operand::Reg(reg) = operand
            && self.constant_of(reg, width).is_none()
            && self.loaded(reg, full(width)).is_none()
        {
            self.prepare(reg, width);
        }
    }

    /// A prepared operand. The value of r10 is put into r11.
    pub(super) fn source(&mut self, operand: Operand, width: Width) -> Source {
        let reg = match self.simplified(operand, width) {
            Operand::Imm(imm) => return Source::Imm(imm),
            Operand::Reg(reg) => reg,
        };
        match self.loaded(reg, full(width)) {
            Some(from) => Source::Mem(self.memory_of(from, 0)),
            None => Source::Reg(self.register(reg, width)),
        }
    }

    /// The machine register with the value of a prepared register. That of
    /// r10 is put into r11.
    pub(super) fn register(&mut self, reg: Reg, width: Width) -> Gpr {
        if frame::machine(reg).is_none() {
            let sum = Sum::of(reg);
            let memory = self.memory_of(sum, 0);
            self.asm().lea(Width::W64, R11, memory);
            return R11;
        }
        machine(self.copied(reg, width).unwrap_or(reg))
    }

    /// Makes the base of an address usable by [`Compiler::memory`].
    pub(super) fn prepare_address(&mut self, addr: Address) {
        match self.values.get(addr.base) {
            None => {}
            Some(Value::Sum(sum)) if sum.width == Width::W64 => {}
            Some(_) => self.settle(addr.base),
        }
    }

    /// The sum that a prepared address is.
    pub(super) fn address_sum(&self, addr: Address) -> Sum {
        let base = match self.values.get(addr.base) {
            Some(Value::Sum(sum)) => sum,
            _ => Sum::of(addr.base),
        };
        // Sums of 64 bits leave room for this (`sums`).
        let disp = base.disp.wrapping_add(addr.off.into());
        Sum { disp, ..base }
    }

    /// The memory operand for a prepared address.
    pub(super) fn memory(&self, addr: Address) -> Memory {
        self.memory_of(self.address_sum(addr), 0)
    }
}

/// The size of a whole register at a width.
pub(super) fn full(width: Width) -> Size {
    match width {
        Width::W32 => Size::W,
        Width::W64 => Size::DW,
    }
}
