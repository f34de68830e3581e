//! Calls of helpers, and look-ups in arrays without one. Knows what the linker
//! says of arrays, not what maps are.

use super::Compiler;
use super::buffer::Cc;
use super::encode::{Arith, Memory, R10, R11, RAX};
use super::frame::RUN;
use super::values::Value;
use crate::jit::flow::{CALLER_SAVED, bit};
use crate::link::ArrayLayout;
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
        match self.looked_up(id) {
            Some(array) => self.look_up(array),
            None => self.call_helper(address),
        }
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
        let key = Address { base: KEY, off: 0 };
        self.prepare_address(key);
        let key = self.memory(key);
        self.values.forget(KEY);
        self.asm().zero_extend(Size::W, R11, key);
        self.asm().constant(RAX, 0);
        let most = array.max_entries as i32;
        self.asm().arith_imm(Arith::Cmp, Width::W32, R11, most);
        let beyond = self.buffer.hop_if(Cc::AE);
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
        self.add_element(array.stride);
        for hop in [Some(beyond), nobody].into_iter().flatten() {
            self.buffer.land(hop);
        }
    }

    /// `rax += r11 * stride`.
    fn add_element(&mut self, stride: u32) {
        match stride {
            1 | 2 | 4 | 8 => {
                let element = Memory {
                    base: Some(RAX),
                    index: Some((R11, stride.trailing_zeros() as u8)),
                    disp: 0,
                };
                self.asm().lea(Width::W64, RAX, element);
            }
            _ => {
                self.asm().multiply_imm(Width::W64, R11, R11, stride as i32);
                self.asm().arith(Arith::Add, Width::W64, RAX, R11);
            }
        }
    }
}
