//! Entries, exits and calls. Knows the C calling convention; where the frame
//! is, `frame` says.

use super::Compiler;
use super::buffer::{Cc, Place};
use super::encode::{Arith, Memory, R9, R11, R12, RAX, RBP, RDI, RDX, RSI, RSP};
use super::frame::{RUN, TAIL_CALLS};
use crate::jit::flow::CALLER_SAVED;
use crate::op::{Reg, Size, Width};
use uapi::insn::{BPF_MAX_LOOPS, MAX_TAIL_CALL_CNT};

impl Compiler<'_> {
    /// The entry of a program that makes tail calls: a frame that outlives
    /// all programs called last, with the count in rbp, which they share.
    pub(super) fn counting_entry(&mut self) {
        self.asm().push(RBP);
        self.asm().push(R12);
        self.asm().arith_imm(Arith::Sub, Width::W64, RSP, 8);
        self.asm().mov(Width::W64, RUN, RSI);
        self.asm().constant(TAIL_CALLS, 0);
        self.buffer.call(Place::Subprogram(0));
        self.asm().arith_imm(Arith::Add, Width::W64, RSP, 8);
        self.asm().pop(R12);
        self.asm().pop(RBP);
        self.asm().ret();
    }

    /// What a helper calls: [`crate::link::CallbackFn`]. Five arguments are
    /// where the subprogram wants them; the sixth is the run context.
    pub(super) fn callback_entry(&mut self, subprogram: usize) {
        self.buffer.begin_callback();
        self.asm().push(RUN);
        self.asm().mov(Width::W64, RUN, R9);
        self.buffer.call(Place::Subprogram(subprogram));
        self.asm().pop(RUN);
        self.asm().ret();
    }

    /// Saves registers and makes room; takes the run context over from the
    /// second C argument if this is where C enters.
    pub(super) fn prologue(&mut self, takes_run: bool) {
        for index in 0..self.frame.saved.len() {
            let register = self.frame.saved[index];
            self.asm().push(register);
        }
        if takes_run {
            self.asm().mov(Width::W64, RUN, RSI);
        }
        let bytes = self.frame.bytes;
        if bytes != 0 {
            self.asm().arith_imm(Arith::Sub, Width::W64, RSP, bytes);
        }
        if let Some(loops) = self.frame.loops {
            let budget = Memory::at(RSP, loops.into());
            self.asm().store_imm(Size::W, budget, BPF_MAX_LOOPS as i32);
        }
    }

    /// Undoes the prologue.
    fn unwind(&mut self) {
        let bytes = self.frame.bytes;
        if bytes != 0 {
            self.asm().arith_imm(Arith::Add, Width::W64, RSP, bytes);
        }
        for index in (0..self.frame.saved.len()).rev() {
            let register = self.frame.saved[index];
            self.asm().pop(register);
        }
    }

    /// Returns r0 to the caller.
    pub(super) fn exit(&mut self) {
        self.settle(Reg::R0);
        self.values.keep(0);
        self.unwind();
        self.asm().ret();
    }

    /// What takes the place of code that no path reaches.
    pub(super) fn unreachable(&mut self) {
        self.asm().constant(RAX, 0);
        self.unwind();
        self.asm().ret();
    }

    /// Puts everything into its register, as a call changes memory and the
    /// registers that C functions may change.
    pub(super) fn before_call(&mut self, used: u16) {
        self.settle_all(self.after | used);
        self.values.keep(0);
        self.stored = None;
    }

    pub(super) fn call_subprogram(&mut self, slot: usize) {
        self.before_call(CALLER_SAVED);
        let subprogram = self.code.subprogram_at(slot);
        self.buffer.call(Place::Subprogram(subprogram));
    }

    /// Arguments are where C wants them; the run context goes sixth.
    pub(super) fn call_helper(&mut self, address: u64) {
        self.before_call(CALLER_SAVED);
        self.asm().mov(Width::W64, R9, RUN);
        self.call_address(address);
    }

    fn call_address(&mut self, address: u64) {
        if self.optimisations.near_calls {
            return self.buffer.call_helper(address);
        }
        self.asm().constant(R11, address);
        self.asm().call_to(R11);
    }

    /// `dst` = the native entry of the callback that starts at `slot`.
    pub(super) fn load_callback(&mut self, dst: Reg, slot: usize) {
        let dst = self.overwrite(dst);
        let index = self.code.callbacks.partition_point(|&start| start < slot);
        self.asm().lea_relative(dst);
        self.buffer.reference(Place::Callback(index));
    }

    /// `bpf_tail_call(ctx, map, index)`: asks for the target, gives up the
    /// frame and jumps there, with ctx and run where C passes them. The
    /// count moves only if there is a target, as in the kernel.
    pub(super) fn tail_call(&mut self, find: u64) {
        self.before_call(CALLER_SAVED);
        let limit = MAX_TAIL_CALL_CNT as i32;
        self.asm()
            .arith_imm(Arith::Cmp, Width::W32, TAIL_CALLS, limit);
        let full = self.buffer.hop_if(Cc::AE);
        let slot = Memory::at(RSP, 0);
        self.asm().store(Size::DW, slot, RDI);
        self.asm().mov(Width::W64, RDI, RSI);
        self.asm().mov(Width::W32, RSI, RDX);
        self.asm().mov(Width::W64, RDX, RUN);
        self.call_address(find);
        self.asm().test(Width::W64, RAX, RAX);
        let none = self.buffer.hop_if(Cc::E);
        self.asm().arith_imm(Arith::Add, Width::W32, TAIL_CALLS, 1);
        self.asm().zero_extend(Size::DW, RDI, slot);
        self.asm().mov(Width::W64, RSI, RUN);
        self.unwind();
        self.asm().jump_to(RAX);
        self.buffer.land(none);
        self.buffer.land(full);
    }
}
