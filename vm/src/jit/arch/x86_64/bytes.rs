//! Numbers that a program puts together from bytes, because the address may
//! not be a multiple of their size, become one load again. A load waits while
//! it is shifted, joined to its neighbour or turned around; stores, calls and
//! block ends make it happen. Reads the very bytes that the program reads,
//! each once. Knows neither what else is deferred nor encodings.

use super::Compiler;
use super::encode::Arith;
use super::values::{Load, Sum, Value};
use crate::op::{Address, AluOp, Operand, Reg, Size, Swap, Width};

impl Load {
    /// Bits up to the highest that may be one.
    fn bits(self) -> u8 {
        self.bytes * 8 + self.shift
    }

    /// Both as one, if they are neighbours in memory and in the number.
    fn joined(self, other: Load) -> Option<Load> {
        let (high, low) = if self.shift > other.shift {
            (self, other)
        } else {
            (other, self)
        };
        let ordered = |load: Load, swapped| load.swapped == swapped || load.bytes == 1;
        let follows = |first: Load, second: Load| {
            let end = first.from.disp.checked_add(first.bytes.into());
            let moved = Sum {
                disp: second.from.disp,
                ..first.from
            };
            end == Some(second.from.disp) && moved == second.from
        };
        if high.shift != low.bits() {
            return None;
        }
        let bytes = high.bytes + low.bytes;
        if follows(low, high) && ordered(low, false) && ordered(high, false) {
            return Some(Load {
                bytes,
                swapped: false,
                ..low
            });
        }
        let turned = follows(high, low) && ordered(low, true) && ordered(high, true);
        turned.then_some(Load {
            from: high.from,
            bytes,
            swapped: true,
            shift: low.shift,
        })
    }
}

impl Compiler<'_> {
    /// `dst = *addr` if loads of this size may wait.
    pub(super) fn defer_load(&mut self, size: Size, dst: Reg, addr: Address) -> bool {
        let waits = match size {
            Size::B | Size::W => {
                self.optimisations.byte_loads || self.optimisations.memory_operands
            }
            Size::H => self.optimisations.byte_loads,
            Size::DW => self.optimisations.memory_operands,
        };
        if waits {
            self.prepare_address(addr);
            let load = Load {
                from: self.address_sum(addr),
                bytes: size.bits() as u8 / 8,
                swapped: false,
                shift: 0,
            };
            self.defer(dst, Value::Load(load));
        }
        waits
    }

    fn load_of(&self, reg: Reg) -> Option<Load> {
        match self.values.get(reg)? {
            Value::Load(load) => Some(load),
            _ => None,
        }
    }

    /// `dst = dst op src` if that only shifts a waiting load or joins one to
    /// its neighbour.
    pub(super) fn join(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) -> bool {
        if !self.optimisations.byte_loads {
            return false;
        }
        let most = match width {
            Width::W32 => 32,
            Width::W64 => 64,
        };
        let op = match (op, src) {
            (AluOp::Lsh, Operand::Imm(by)) => return self.shift_load(dst, by, most),
            (AluOp::Or, _) => Arith::Or,
            (AluOp::Add, _) => Arith::Add,
            (AluOp::Xor, _) => Arith::Xor,
            _ => return false,
        };
        match src {
            Operand::Reg(src) if src != dst && self.dies(src) => {
                self.join_load(width, op, dst, src, most)
            }
            _ => false,
        }
    }

    /// `dst <<= by` for a waiting load that keeps all its bits.
    fn shift_load(&mut self, dst: Reg, by: i32, most: i32) -> bool {
        let Some(load) = self.load_of(dst) else {
            return false;
        };
        let fits = by > 0 && by % 8 == 0 && i32::from(load.bits()) + by <= most;
        if fits {
            let shift = load.shift + by as u8;
            self.values.set(dst, Value::Load(Load { shift, ..load }));
        }
        fits
    }

    /// `dst = dst op src`, where `src` is a waiting load that nobody else needs.
    fn join_load(&mut self, width: Width, op: Arith, dst: Reg, src: Reg, most: i32) -> bool {
        let Some(other) = self.load_of(src) else {
            return false;
        };
        if i32::from(other.bits()) > most {
            return false;
        }
        let load = match self.values.get(dst) {
            Some(Value::Load(load)) => (i32::from(load.bits()) <= most).then_some(load),
            Some(Value::Joined {
                op: own,
                width: at,
                load,
                ..
            }) => (own == op && at == width).then_some(load),
            _ => None,
        };
        if let Some(joined) = load.and_then(|load| load.joined(other)) {
            self.values.forget(src);
            let value = match self.values.get(dst) {
                Some(Value::Joined { of, .. }) => Value::Joined {
                    of,
                    op,
                    width,
                    load: joined,
                },
                _ => Value::Load(joined),
            };
            self.defer(dst, value);
            return true;
        }
        // The first of several neighbours, perhaps: it waits for the others.
        if other.shift == 0 {
            return false;
        }
        self.settle(dst);
        let Some(other) = self.load_of(src) else {
            return false;
        };
        self.values.forget(src);
        let value = Value::Joined {
            of: dst,
            op,
            width,
            load: other,
        };
        self.defer(dst, value);
        true
    }

    /// Swaps the bytes of `dst` if it is a waiting load of that size.
    pub(super) fn swap_load(&mut self, kind: Swap, size: Size, dst: Reg) -> bool {
        let Some(load) = self.load_of(dst) else {
            return false;
        };
        let bytes = size.bits() as u8 / 8;
        if kind == Swap::Le {
            return load.bits() <= bytes * 8;
        }
        let turns = load.bytes == bytes && load.shift == 0;
        if turns {
            let swapped = !load.swapped;
            self.values.set(dst, Value::Load(Load { swapped, ..load }));
        }
        turns
    }
}
