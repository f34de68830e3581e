//! Calls of helpers, of what stands for them, and look-ups in arrays without one. Knows what the linker
//! says of arrays, not what maps are.

use super::Compiler;
use super::buffer::Cc;
use super::encode::{Arith, Gpr, Memory, R10, R11, RAX};
use super::frame::RUN;
use super::values::{Value, machine};
use crate::jit::flow::{CALLER_SAVED, bit};
use crate::link::{ArrayLayout, Direct};
use crate::op::{Address, Reg, Size, Width};
use uapi::helper::BPF_FUNC_MAP_LOOKUP_ELEM;

/// The map and the key of a look-up.
const MAP: Reg = register(1);
const KEY: Reg = register(2);

const fn register(number: u8) -> Reg {
    match Reg::new(number) {
        Some(reg) => reg,
        None => Reg::R10,
    }
}

impl Compiler<'_> {
    /// Calls a helper, or does its work.
    pub(super) fn helper(&mut self, id: Option<u32>, address: u64) {
        if let Some(array) = self.looked_up(id) {
            return self.look_up(array);
        }
        match self.direct(id) {
            Some(direct) => {
                // The call is the last that needs the map.
                self.values.set(MAP, Value::Constant(direct.map));
                self.call_helper(direct.call as *const () as u64);
            }
            None => self.call_helper(address),
        }
    }

    /// What does a helper's work for the map that it gets.
    fn direct(&self, id: Option<u32>) -> Option<Direct> {
        let Value::Constant(map) = self.values.get(MAP)? else {
            return None;
        };
        let is_wanted = self.optimisations.inlined_helpers;
        self.code.direct(map, id.filter(|_| is_wanted)?)
    }

    /// The array that a helper looks into, if that is all it does.
    fn looked_up(&self, id: Option<u32>) -> Option<ArrayLayout> {
        if !self.optimisations.inlined_helpers || id != Some(BPF_FUNC_MAP_LOOKUP_ELEM) {
            return None;
        }
        let Value::Constant(map) = self.values.get(MAP)? else {
            return None;
        };
        let array = self.code.array(map)?;
        let cpu_stride = array.cpus.map_or(0, |cpus| cpus.stride);
        let fits = i32::try_from(array.stride).is_ok() && i32::try_from(cpu_stride).is_ok();
        fits.then_some(array)
    }

    /// `r0` = address of the element that the key at r2 names, or 0. Leaves
    /// memory and all other registers as they are.
    fn look_up(&mut self, array: ArrayLayout) {
        self.values.keep(self.after & !CALLER_SAVED | bit(KEY));
        self.vacate(Reg::R0);
        let (index, most) = self.index();
        self.values.forget(KEY);
        let checked = most >= array.max_entries.into();
        if checked || array.cpus.is_some() {
            self.asm().constant(RAX, 0);
        }
        let beyond = checked.then(|| {
            let limit = array.max_entries as i32;
            self.asm().arith_imm(Arith::Cmp, Width::W32, index, limit);
            self.buffer.hop_if(Cc::AE)
        });
        let nobody = array.cpus.map(|cpus| {
            let cpu = Memory::at(RUN, cpus.cpu_at as i32);
            self.asm().zero_extend(Size::W, R10, cpu);
            let count = cpus.count as i32;
            self.asm().arith_imm(Arith::Cmp, Width::W32, R10, count);
            let nobody = self.buffer.hop_if(Cc::AE);
            let stride = cpus.stride as i32;
            self.asm().multiply_imm(Width::W64, R10, R10, stride);
            nobody
        });
        self.asm().constant(RAX, array.base);
        if nobody.is_some() {
            self.asm().arith(Arith::Add, Width::W64, RAX, R10);
        }
        self.add_element(index, array.stride);
        for hop in [beyond, nobody].into_iter().flatten() {
            self.buffer.land(hop);
        }
    }

    /// A register with the key in all its bits, and the most it can be.
    fn index(&mut self) -> (Gpr, u64) {
        let key = Address { base: KEY, off: 0 };
        self.prepare_address(key);
        let low = u64::from(u32::MAX);
        match self.stored {
            Some(stored) if stored.place == self.address_sum(key) => {
                let register = machine(stored.reg);
                if stored.bits <= low {
                    return (register, stored.bits);
                }
                self.asm().mov(Width::W32, R11, register);
            }
            _ => {
                let key = self.memory(key);
                self.asm().zero_extend(Size::W, R11, key);
            }
        }
        (R11, low)
    }

    /// `rax += index * stride`. Changes r11.
    fn add_element(&mut self, index: Gpr, stride: u32) {
        match stride {
            1 | 2 | 4 | 8 => {
                let element = Memory {
                    base: Some(RAX),
                    index: Some((index, stride.trailing_zeros() as u8)),
                    disp: 0,
                };
                self.asm().lea(Width::W64, RAX, element);
            }
            _ => {
                let stride = stride as i32;
                self.asm().multiply_imm(Width::W64, R11, index, stride);
                self.asm().arith(Arith::Add, Width::W64, RAX, R11);
            }
        }
    }
}
