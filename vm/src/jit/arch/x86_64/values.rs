//! Values that are described instead of computed: a register of the program
//! may stand for a sum, a load or a shift of what other registers' machine
//! registers hold, until someone needs it in its own. Knows how to keep those
//! descriptions true and how to compute them; which are made is the business
//! of `sums`, `bytes` and `rotate`.
//!
//! The rules: before a machine register changes, whoever is described by it is
//! settled ([`Compiler::vacate`]); descriptions never form a circle
//! ([`Compiler::defer`]); where control meets or leaves, nothing is described.
//! A load has one owner, so that it happens once.

use super::encode::{Arith, Gpr, Memory, R9, R10, R11, RSP, Shift};
use super::{Compiler, frame};
use crate::jit::flow::{Regs, bit};
use crate::op::{Reg, Size, Width};

/// A sum of what machine registers hold now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    /// May be r10.
    pub base: Option<Reg>,
    /// With the power of two it is multiplied by, 0 to 3. Not r10.
    pub index: Option<(Reg, u8)>,
    pub disp: i32,
    /// With 32 bits, the sum's lower half alone counts.
    pub width: Width,
}

impl Sum {
    /// What the machine register of `reg` holds.
    pub fn of(reg: Reg) -> Sum {
        Sum {
            base: Some(reg),
            index: None,
            disp: 0,
            width: Width::W64,
        }
    }

    /// The register that this is a copy of.
    pub fn copied(&self) -> Option<Reg> {
        let plain = self.index.is_none() && self.disp == 0;
        self.base.filter(|&base| plain && base != Reg::R10)
    }

    pub fn reads(&self) -> Regs {
        self.base.map_or(0, bit) | self.index.map_or(0, |(reg, _)| bit(reg))
    }
}

/// `bytes` bytes at `from`, with the first as the highest if `swapped`,
/// shifted left by a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub from: Sum,
    pub bytes: u8,
    pub swapped: bool,
    pub shift: u8,
}

/// What a register stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Sum(Sum),
    Load(Load),
    /// What the machine register of `of` holds, joined by `op` at a width
    /// with a load.
    Joined {
        of: Reg,
        op: Arith,
        width: Width,
        load: Load,
    },
    /// What the machine register of `of` holds, shifted at a width.
    Shifted {
        of: Reg,
        op: Shift,
        count: u8,
        width: Width,
    },
    Constant(u64),
}

impl Value {
    fn reads(&self) -> Regs {
        match self {
            Value::Sum(sum) | Value::Load(Load { from: sum, .. }) => sum.reads(),
            Value::Joined { of, load, .. } => bit(*of) | load.from.reads(),
            Value::Shifted { of, .. } => bit(*of),
            Value::Constant(_) => 0,
        }
    }
}

/// A word on the stack that is in a machine register too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub place: Sum,
    /// Whose machine register; it did not change since.
    pub reg: Reg,
    /// Bits of that register that may be one.
    pub bits: u64,
}

/// The description of each register that has one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Values {
    values: [Option<Value>; 10],
    described: Regs,
}

impl Values {
    pub fn get(&self, reg: Reg) -> Option<Value> {
        self.values.get(usize::from(reg.number())).copied()?
    }

    pub fn set(&mut self, reg: Reg, value: Value) {
        self.values[usize::from(reg.number())] = Some(value);
        self.described |= bit(reg);
    }

    /// The register's value is in its machine register, or nowhere.
    pub fn forget(&mut self, reg: Reg) {
        if let Some(value) = self.values.get_mut(usize::from(reg.number())) {
            *value = None;
            self.described &= !bit(reg);
        }
    }

    /// Forgets all but `live` registers.
    pub fn keep(&mut self, live: Regs) {
        for reg in registers(self.described & !live) {
            self.forget(reg);
        }
    }

    pub fn described(&self) -> Regs {
        self.described
    }

    /// The registers described by what the machine register of `reg` holds,
    /// other than itself.
    pub fn readers(&self, reg: Reg) -> Regs {
        let mut readers = 0;
        for other in registers(self.described & !bit(reg)) {
            if self
                .get(other)
                .is_some_and(|value| value.reads() & bit(reg) != 0)
            {
                readers |= bit(other);
            }
        }
        readers
    }

    /// Whether `reg` is described by what its own machine register holds.
    pub fn reads_itself(&self, reg: Reg) -> bool {
        self.get(reg)
            .is_some_and(|value| value.reads() & bit(reg) != 0)
    }

    /// Whether a description that reads `from` would close a circle when it
    /// becomes that of `to`.
    fn leads_to(&self, from: Regs, to: Reg) -> bool {
        let (mut seen, mut pending) = (0, from & !bit(to));
        while let Some(reg) = registers(pending).next() {
            seen |= bit(reg);
            if let Some(value) = self.get(reg) {
                if value.reads() & bit(to) != 0 {
                    return true;
                }
                pending |= value.reads();
            }
            pending &= !seen;
        }
        false
    }
}

/// The registers of a set, ascending.
pub(super) fn registers(set: Regs) -> impl Iterator<Item = Reg> {
    (0..10)
        .filter(move |n| set & (1 << n) != 0)
        .filter_map(Reg::new)
}

impl Compiler<'_> {
    /// Makes `reg` stand for `value`; its machine register keeps what it held.
    pub(super) fn defer(&mut self, reg: Reg, value: Value) {
        if value == Value::Sum(Sum::of(reg)) {
            return self.values.forget(reg);
        }
        // What nobody needs after this instruction is in nobody's way.
        self.values.keep(self.after | bit(reg));
        if self.values.leads_to(value.reads(), reg) {
            self.compute(R9, value);
            self.vacate(reg);
            self.values.forget(reg);
            return self.asm().mov(Width::W64, machine(reg), R9);
        }
        self.values.set(reg, value);
    }

    /// Puts the value of `reg` into its machine register.
    pub(super) fn settle(&mut self, reg: Reg) {
        let Some(value) = self.values.get(reg) else {
            return;
        };
        self.vacate(reg);
        self.values.forget(reg);
        self.compute(machine(reg), value);
    }

    /// Settles all described registers of a set.
    pub(super) fn settle_all(&mut self, set: Regs) {
        for reg in registers(set & self.values.described()) {
            self.settle(reg);
        }
    }

    /// Settles all loads: what they read may change.
    pub(super) fn settle_loads(&mut self) {
        for reg in registers(self.values.described()) {
            if let Some(Value::Load(_) | Value::Joined { .. }) = self.values.get(reg) {
                self.settle(reg);
            }
        }
    }

    /// Makes the machine register of `reg` free to change, as nothing but
    /// `reg` itself is described by it.
    pub(super) fn vacate(&mut self, reg: Reg) {
        self.stored = self.stored.filter(|stored| stored.reg != reg);
        for reader in registers(self.values.readers(reg)) {
            self.settle(reader);
        }
    }

    /// A machine register that changes and whose old value does not matter
    /// beyond this instruction: vacates it and forgets its description.
    pub(super) fn overwrite(&mut self, reg: Reg) -> Gpr {
        self.vacate(reg);
        self.values.forget(reg);
        machine(reg)
    }

    /// `dst = value`. Changes r10, r11 and flags.
    fn compute(&mut self, dst: Gpr, value: Value) {
        match value {
            Value::Sum(sum) => self.compute_sum(dst, sum),
            Value::Load(load) => self.compute_load(dst, load),
            Value::Joined {
                of,
                op,
                width,
                load,
            } => {
                self.compute_load(R11, load);
                if machine(of) != dst {
                    self.asm().mov(width, dst, machine(of));
                }
                self.asm().arith(op, width, dst, R11);
            }
            Value::Shifted {
                of,
                op,
                count,
                width,
            } => {
                if machine(of) != dst {
                    self.asm().mov(width, dst, machine(of));
                }
                self.asm().shift_imm(op, width, dst, count);
            }
            Value::Constant(value) => self.asm().constant(dst, value),
        }
    }

    fn compute_sum(&mut self, dst: Gpr, sum: Sum) {
        let memory = self.memory_of(sum, 0);
        let Memory { base, index, disp } = memory;
        match (base, index) {
            (Some(base), None) if base == dst && disp != 0 => {
                self.asm().arith_imm(Arith::Add, sum.width, dst, disp);
            }
            (Some(base), None) if disp == 0 => {
                if base != dst || sum.width == Width::W32 {
                    self.asm().mov(sum.width, dst, base);
                }
            }
            (Some(base), Some((index, 0))) if base == dst && disp == 0 => {
                self.asm().arith(Arith::Add, sum.width, dst, index);
            }
            (Some(base), Some((index, 0))) if index == dst && disp == 0 && base != RSP => {
                self.asm().arith(Arith::Add, sum.width, dst, base);
            }
            (None, Some((index, count))) if index == dst && disp == 0 => {
                self.asm().shift_imm(Shift::Shl, sum.width, dst, count);
            }
            _ => self.asm().lea(sum.width, dst, memory),
        }
    }

    fn compute_load(&mut self, dst: Gpr, load: Load) {
        let memory = self.memory_of(load.from, 0);
        let size = match load.bytes {
            1 => Some(Size::B),
            2 => Some(Size::H),
            4 => Some(Size::W),
            8 => Some(Size::DW),
            _ => None,
        };
        match size {
            Some(size) if load.swapped => self.load_swapped(size, dst, memory),
            Some(size) => self.asm().zero_extend(size, dst, memory),
            None => self.compute_odd_load(dst, memory, load.bytes, load.swapped),
        }
        if load.shift > 0 {
            self.asm()
                .shift_imm(Shift::Shl, Width::W64, dst, load.shift);
        }
    }

    /// `dst = *memory` in the other byte order.
    pub(super) fn load_swapped(&mut self, size: Size, dst: Gpr, memory: Memory) {
        let movbe = self.features.movbe && self.optimisations.movbe;
        match size {
            Size::W | Size::DW if movbe => self.asm().load_swapped(size, dst, memory),
            _ => {
                self.asm().zero_extend(size, dst, memory);
                self.swap_register(size, dst);
            }
        }
    }

    /// 3, 5, 6 or 7 bytes, in pieces.
    fn compute_odd_load(&mut self, dst: Gpr, memory: Memory, bytes: u8, swapped: bool) {
        let mut done = 0;
        for (size, piece) in [(Size::W, 4), (Size::H, 2), (Size::B, 1)] {
            if bytes & piece == 0 {
                continue;
            }
            let register = if done == 0 { R11 } else { R10 };
            let disp = memory.disp.wrapping_add(i32::from(done));
            let memory = Memory { disp, ..memory };
            if swapped && piece > 1 {
                self.load_swapped(size, register, memory);
            } else {
                self.asm().zero_extend(size, register, memory);
            }
            let shift = 8 * if swapped { bytes - done - piece } else { done };
            if shift > 0 {
                self.asm()
                    .shift_imm(Shift::Shl, Width::W64, register, shift);
            }
            if done > 0 {
                self.asm().arith(Arith::Or, Width::W64, R11, R10);
            }
            done += piece;
        }
        if dst != R11 {
            self.asm().mov(Width::W64, dst, R11);
        }
    }

    /// The memory operand for a sum of 64 bits, plus an offset that was
    /// checked to fit.
    pub(super) fn memory_of(&self, sum: Sum, off: i32) -> Memory {
        let mut disp = sum.disp.wrapping_add(off);
        let base = sum.base.map(|reg| {
            frame::machine(reg).unwrap_or_else(|| {
                disp = disp.wrapping_add(self.frame.top);
                RSP
            })
        });
        let index = sum.index.map(|(reg, count)| (machine(reg), count));
        Memory { base, index, disp }
    }
}

/// The machine register of r0…r9.
pub(super) fn machine(reg: Reg) -> Gpr {
    frame::machine(reg).unwrap_or(R11)
}
