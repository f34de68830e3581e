//! Loops that fill or copy memory, by the processor's own instructions for
//! that where there is much to do. They need no vector register, which
//! trampolines do not save for programs without helpers.

use super::Compiler;
use super::buffer::Cc;
use super::encode::{Arith, Gpr, Memory, R9, R10, R11, RAX, RCX, RDI, RSI, Shift};
use super::values::machine;
use crate::jit::bulk::{Bulk, Source, Sum};
use crate::op::{Operand, Reg, Size, Width};

/// Bytes from which on it is worth while.
const LEAST: i32 = 128;

const CLD: u8 = 0xfc;
const REP: u8 = 0xf3;
const HALF: u8 = 0x66;
const REX_W: u8 = 0x48;
const MOVSB: u8 = 0xa4;
const STOSB: u8 = 0xaa;

impl Compiler<'_> {
    /// Does the loop at slot `head`, if there is much to do, and goes to its
    /// end. Registers are as the loop expects them.
    pub(super) fn bulk(&mut self, head: usize, bulk: &Bulk) {
        self.compare_to_bound(bulk);
        self.buffer.jump_if(Cc::AE, head);
        self.rounds(bulk);
        let least = LEAST / (bulk.size.bits() as i32 / 8);
        self.asm().arith_imm(Arith::Cmp, Width::W64, R9, least);
        self.buffer.jump_if(Cc::B, head);

        let third = match bulk.from {
            Source::Memory(_) => RSI,
            Source::Value(_) => RAX,
        };
        let saved = [(RDI, R10), (RCX, R11), (third, R9)];
        for (register, place) in saved {
            if register == third {
                self.asm().mov(Width::W64, RCX, R9);
            }
            self.asm().mov(Width::W64, place, register);
        }
        let now = |reg: Reg| {
            let register = machine(reg);
            let moved = saved.iter().find(|(from, _)| *from == register);
            moved.map_or(register, |&(_, place)| place)
        };
        self.asm().lea(Width::W64, RDI, memory(bulk.to, now));
        let opcode = match bulk.from {
            Source::Memory(from) => {
                self.asm().lea(Width::W64, RSI, memory(from, now));
                MOVSB
            }
            Source::Value(Operand::Reg(reg)) => {
                self.asm().mov(Width::W64, RAX, now(reg));
                STOSB
            }
            Source::Value(Operand::Imm(imm)) => {
                self.asm().constant(RAX, i64::from(imm) as u64);
                STOSB
            }
        };
        self.repeat(opcode, bulk.size);
        for (register, place) in saved {
            self.asm().mov(Width::W64, register, place);
        }

        self.rounds(bulk);
        for (number, step) in (0..).zip(bulk.steps).filter(|&(_, step)| step != 0) {
            let Some(reg) = Reg::new(number) else {
                continue;
            };
            self.asm().multiply_imm(Width::W64, R10, R9, step);
            self.asm().arith(Arith::Add, Width::W64, machine(reg), R10);
        }
        self.buffer.jump(bulk.end);
    }

    /// Compares index and bound.
    fn compare_to_bound(&mut self, bulk: &Bulk) {
        let index = machine(bulk.index);
        match bulk.bound {
            Operand::Reg(bound) => {
                let bound = machine(bound);
                self.asm().arith(Arith::Cmp, Width::W64, index, bound);
            }
            Operand::Imm(bound) => {
                self.asm().arith_imm(Arith::Cmp, Width::W64, index, bound);
            }
        }
    }

    /// `r9` = rounds that are left, if index is below bound.
    fn rounds(&mut self, bulk: &Bulk) {
        match bulk.bound {
            Operand::Reg(bound) => self.asm().mov(Width::W64, R9, machine(bound)),
            Operand::Imm(bound) => self.asm().constant(R9, bound as u64),
        }
        let index = machine(bulk.index);
        self.asm().arith(Arith::Sub, Width::W64, R9, index);
        let step = bulk.steps[usize::from(bulk.index.number())];
        if step > 1 {
            self.asm().arith_imm(Arith::Add, Width::W64, R9, step - 1);
            let log = step.trailing_zeros() as u8;
            self.asm().shift_imm(Shift::Shr, Width::W64, R9, log);
        }
    }

    /// `rep stos` or `rep movs` of elements, upwards whatever the probed
    /// function left in the direction flag.
    fn repeat(&mut self, opcode: u8, size: Size) {
        let (prefix, opcode) = match size {
            Size::B => (None, opcode),
            Size::H => (Some(HALF), opcode + 1),
            Size::W => (None, opcode + 1),
            Size::DW => (Some(REX_W), opcode + 1),
        };
        let asm = self.asm();
        asm.byte(CLD);
        asm.byte(REP);
        if let Some(prefix) = prefix {
            asm.byte(prefix);
        }
        asm.byte(opcode);
    }
}

/// A sum of one or two registers, wherever they are now, as an operand.
fn memory(sum: Sum, now: impl Fn(Reg) -> Gpr) -> Memory {
    let registers = (0..10).filter(|number| sum.registers & (1 << number) != 0);
    let mut registers = registers.filter_map(Reg::new).map(now);
    Memory {
        base: registers.next(),
        index: registers.next().map(|register| (register, 0)),
        disp: sum.constant,
    }
}
