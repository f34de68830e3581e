//! Loads, stores and atomics.

use super::Compiler;
use super::buffer::Cc;
use super::encode::{Arith, Gpr, Memory, R9, R10, R11, RAX};
use super::instructions::wide;
use super::operands::Source;
use super::values::Stored;
use crate::op::{Address, AtomicOp, Operand, Reg, Size, Width};

impl Compiler<'_> {
    /// `dst = *addr`.
    pub(super) fn load(&mut self, size: Size, signed: bool, dst: Reg, addr: Address) {
        if !signed && self.defer_load(size, dst, addr) {
            return;
        }
        self.load_now(size, signed, dst, addr);
    }

    /// The same, with all loads before it done.
    pub(super) fn load_acquire(&mut self, size: Size, dst: Reg, addr: Address) {
        // x86 orders loads before later accesses: acquire needs no more.
        self.settle_loads();
        self.load_now(size, false, dst, addr);
    }

    fn load_now(&mut self, size: Size, signed: bool, dst: Reg, addr: Address) {
        self.vacate(dst);
        self.prepare_address(addr);
        let memory = self.memory(addr);
        let dst = self.overwrite(dst);
        if signed && size != Size::DW {
            self.asm().sign_extend(Width::W64, size, dst, memory);
        } else {
            self.asm().zero_extend(size, dst, memory);
        }
    }

    /// `*addr = src`; x86 orders stores after earlier accesses, as a release
    /// wants.
    pub(super) fn store(&mut self, size: Size, addr: Address, src: Operand) {
        self.settle_loads();
        let width = wide(size);
        self.prepare_source(src, width);
        self.prepare_address(addr);
        let memory = self.memory(addr);
        match self.source(src, width) {
            Source::Imm(imm) => self.asm().store_imm(size, memory, imm),
            Source::Reg(src) => self.asm().store(size, memory, src),
            Source::Mem(_) => unreachable!("no load waits"),
        }
        self.stored = self.stored_word(size, addr, src);
    }

    /// What is known after a store, if that was a word to the stack.
    fn stored_word(&self, size: Size, addr: Address, src: Operand) -> Option<Stored> {
        let place = self.address_sum(addr);
        let Operand::Reg(src) = src else { return None };
        let reg = self.copied(src, Width::W32)?;
        // Of a copy of the lower half, the rest is unknown.
        let whole = self.copied(src, Width::W64).is_some();
        let known = size == Size::W && place.base == Some(Reg::R10) && place.index.is_none();
        (known && reg != Reg::R10).then_some(Stored {
            place,
            reg,
            bits: if whole { self.bits.of(src) } else { u64::MAX },
        })
    }

    /// A read-modify-write; the lock prefix orders it fully. 32-bit results
    /// clear the upper half of their register by themselves.
    pub(super) fn atomic(
        &mut self,
        op: AtomicOp,
        fetch: bool,
        size: Size,
        addr: Address,
        src: Reg,
    ) {
        self.settle_loads();
        self.stored = None;
        let width = wide(size);
        let result = match op {
            AtomicOp::CmpXchg => Some(Reg::R0),
            AtomicOp::Xchg => Some(src),
            _ => Some(src).filter(|_| fetch),
        };
        if let Some(result) = result {
            self.vacate(result);
            self.settle(result);
        }
        self.settle(src);
        self.prepare_address(addr);
        let m = self.memory(addr);
        let register = self.register(src, Width::W64);
        let arith = match op {
            AtomicOp::Add => Arith::Add,
            AtomicOp::Or => Arith::Or,
            AtomicOp::And => Arith::And,
            _ => Arith::Xor,
        };
        match (op, fetch) {
            (AtomicOp::Add, true) => self.asm().lock_exchange_add(width, m, register),
            (AtomicOp::Xchg, _) => self.asm().exchange(width, m, register),
            (AtomicOp::CmpXchg, _) => {
                self.asm().lock_compare_exchange(width, m, register);
                if width == Width::W32 {
                    // Untouched when the comparison holds.
                    self.asm().mov(Width::W32, RAX, RAX);
                }
            }
            (_, false) => self.asm().lock_arith(arith, width, m, register),
            (_, true) => self.fetch_by_loop(arith, width, m, register),
        }
    }

    /// The processor has no fetching or, and, xor: compare and exchange until
    /// nobody came between. `cmpxchg` needs rax, which is r0; r10 keeps it,
    /// r11 the address.
    fn fetch_by_loop(&mut self, op: Arith, width: Width, m: Memory, register: Gpr) {
        self.asm().mov(Width::W64, R10, RAX);
        self.asm().lea(Width::W64, R11, m);
        let m = Memory::at(R11, 0);
        let operand = if register == RAX { R10 } else { register };
        self.asm().zero_extend(super::operands::full(width), RAX, m);
        let again = self.asm().offset();
        self.asm().mov(Width::W64, R9, RAX);
        self.asm().arith(op, Width::W64, R9, operand);
        self.asm().lock_compare_exchange(width, m, R9);
        self.buffer.hop_back_if(Cc::NE, again);
        if register != RAX {
            self.asm().mov(Width::W64, register, RAX);
            self.asm().mov(Width::W64, RAX, R10);
        }
    }
}
