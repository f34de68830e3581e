//! Numbers that a program puts together from bytes, because the address may
//! not be a multiple of their size, become one load again. A load waits while
//! it is shifted, joined to its neighbour or turned around; stores, calls and
//! block ends make it happen. Reads the very bytes that the program reads,
//! each once. Knows neither what else is deferred nor encodings.

use super::Compiler;
use super::values::{Sum, Value};
use crate::op::{Address, AluOp, Operand, Reg, Size, Swap, Width};

/// A load that is waiting.
#[derive(Clone, Copy)]
struct Load {
    from: Sum,
    bytes: u8,
    swapped: bool,
    /// Bits it is shifted left by, a multiple of 8.
    shift: u8,
}

impl Load {
    fn value(self) -> Value {
        let Load {
            from,
            bytes,
            swapped,
            shift,
        } = self;
        Value::Load {
            from,
            bytes,
            swapped,
            shift,
        }
    }

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
            self.defer(dst, load.value());
        }
        waits
    }

    fn load_of(&self, reg: Reg) -> Option<Load> {
        match self.values.get(reg)? {
            Value::Load {
                from,
                bytes,
                swapped,
                shift,
            } => Some(Load {
                from,
                bytes,
                swapped,
                shift,
            }),
            _ => None,
        }
    }

    /// `dst = dst op src` if that only shifts a waiting load or joins two.
    pub(super) fn join(&mut self, width: Width, op: AluOp, dst: Reg, src: Operand) -> bool {
        if !self.optimisations.byte_loads {
            return false;
        }
        let Some(load) = self.load_of(dst) else {
            return false;
        };
        let most = match width {
            Width::W32 => 32,
            Width::W64 => 64,
        };
        match (op, src) {
            (AluOp::Lsh, Operand::Imm(by)) if by > 0 && by % 8 == 0 => {
                if i32::from(load.bits()) + by > most {
                    return false;
                }
                let shift = load.shift + by as u8;
                self.values.set(dst, Load { shift, ..load }.value());
                true
            }
            (AluOp::Or | AluOp::Add | AluOp::Xor, Operand::Reg(src))
                if src != dst && self.dies(src) =>
            {
                let Some(other) = self.load_of(src) else {
                    return false;
                };
                let fits = i32::from(load.bits().max(other.bits())) <= most;
                let Some(joined) = load.joined(other).filter(|_| fits) else {
                    return false;
                };
                self.values.forget(src);
                self.defer(dst, joined.value());
                true
            }
            _ => false,
        }
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
            self.values.set(dst, Load { swapped, ..load }.value());
        }
        turns
    }
}
