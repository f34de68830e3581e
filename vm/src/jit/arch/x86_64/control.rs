//! Entries, exits, jumps and calls.

use dynasmrt::DynasmApi;

use super::alu::by_register;
use super::buffer::{Cc, Place};
use super::frame::{R11, R12, RBP};
use super::{Compiler, emit};
use crate::link::{LinkError, target};
use crate::op::{Cond, Operand, Reg, Width};
use uapi::insn::{BPF_MAX_LOOPS, MAX_TAIL_CALL_CNT};

impl Compiler<'_> {
    /// The entry of a program that makes tail calls: a frame that outlives
    /// all programs called last, with the count in rbp, which they share.
    pub(super) fn counting_entry(&mut self) {
        emit!(self, push rbp);
        emit!(self, push r12);
        emit!(self, sub rsp, BYTE 8);
        emit!(self, mov r12, rsi);
        emit!(self, xor ebp, ebp);
        self.buffer.call(Place::Subprogram(0));
        emit!(self, add rsp, BYTE 8);
        emit!(self, pop r12);
        emit!(self, pop rbp);
        emit!(self, ret);
    }

    /// What a helper calls: [`crate::link::CallbackFn`]. Five arguments are
    /// where the subprogram wants them; the sixth is the run context.
    pub(super) fn callback_entry(&mut self, subprogram: usize) {
        self.buffer.begin_callback();
        emit!(self, push r12);
        emit!(self, mov r12, r9);
        self.buffer.call(Place::Subprogram(subprogram));
        emit!(self, pop r12);
        emit!(self, ret);
    }

    /// Saves registers and makes room; takes the run context over from the
    /// second C argument if this is where C enters.
    pub(super) fn prologue(&mut self, takes_run: bool) {
        for index in 0..self.frame.saved.len() {
            let register = self.frame.saved[index];
            emit!(self, push Rq(register));
        }
        if takes_run {
            emit!(self, mov Rq(R12), rsi);
        }
        match (self.frame.bytes, i8::try_from(self.frame.bytes)) {
            (0, _) => {}
            (_, Ok(bytes)) => emit!(self, sub rsp, BYTE bytes),
            (bytes, Err(_)) => emit!(self, sub rsp, DWORD bytes),
        }
        if let Some(loops) = self.frame.loops {
            emit!(self, mov DWORD [BYTE rsp + loops], BPF_MAX_LOOPS as i32);
        }
    }

    /// Undoes the prologue.
    fn unwind(&mut self) {
        match (self.frame.bytes, i8::try_from(self.frame.bytes)) {
            (0, _) => {}
            (_, Ok(bytes)) => emit!(self, add rsp, BYTE bytes),
            (bytes, Err(_)) => emit!(self, add rsp, DWORD bytes),
        }
        for index in (0..self.frame.saved.len()).rev() {
            let register = self.frame.saved[index];
            emit!(self, pop Rq(register));
        }
    }

    /// Returns to the caller.
    pub(super) fn epilogue(&mut self) {
        self.unwind();
        emit!(self, ret);
    }

    pub(super) fn jump(&mut self, at: usize, rel: i32) -> Result<(), LinkError> {
        if rel != 0 {
            self.buffer.jump(target(at, rel)?);
        }
        Ok(())
    }

    pub(super) fn branch(
        &mut self,
        at: usize,
        width: Width,
        cond: Cond,
        dst: Reg,
        src: Operand,
        rel: i32,
    ) -> Result<(), LinkError> {
        if rel == 0 {
            return Ok(());
        }
        // With r10 on both sides, both are in r11, as they should.
        let dst = self.machine(dst);
        match src {
            Operand::Reg(src) => {
                let src = self.machine(src);
                if cond == Cond::Set {
                    by_register!(self, width, test, dst, src);
                } else {
                    by_register!(self, width, cmp, dst, src);
                }
            }
            Operand::Imm(imm) if cond == Cond::Set => match width {
                Width::W64 if imm < 0 => emit!(self, test Rq(dst), DWORD imm),
                _ => emit!(self, test Rd(dst), DWORD imm),
            },
            // Leaves the flags that a comparison with 0 does, in fewer bytes.
            Operand::Imm(0) => by_register!(self, width, test, dst, dst),
            Operand::Imm(imm) => self.compare_immediate(width, dst, imm),
        }
        self.buffer.jump_if(condition(cond), target(at, rel)?);
        Ok(())
    }

    /// Takes one from the budget, or jumps when there is none.
    pub(super) fn may_goto(&mut self, at: usize, rel: i32) -> Result<(), LinkError> {
        let Some(loops) = self.frame.loops else {
            return Err(LinkError::Target { insn: at });
        };
        if rel == 0 {
            return Ok(());
        }
        emit!(self, cmp DWORD [BYTE rsp + loops], BYTE 0);
        self.buffer.jump_if(Cc::E, target(at, rel)?);
        emit!(self, dec DWORD [BYTE rsp + loops]);
        Ok(())
    }

    pub(super) fn call_subprogram(&mut self, at: usize, rel: i32) -> Result<(), LinkError> {
        let subprogram = self.code.subprogram_at(target(at, rel)?);
        self.buffer.call(Place::Subprogram(subprogram));
        Ok(())
    }

    /// Arguments are where C wants them; the run context goes sixth.
    pub(super) fn call_helper(&mut self, address: u64) {
        emit!(self, mov r9, r12);
        self.load_constant(R11, address);
        emit!(self, call Rq(R11));
    }

    /// `dst` = the native entry of a callback.
    pub(super) fn load_callback(&mut self, dst: Reg, slot: usize) {
        let dst = self.machine(dst);
        let index = self.code.callbacks.partition_point(|&start| start < slot);
        emit!(self, lea Rq(dst), [rip + 0]);
        self.buffer.retarget_last(Place::Callback(index));
    }

    /// `bpf_tail_call(ctx, map, index)`: asks for the target, gives up the
    /// frame and jumps there, with ctx and run where C passes them. The
    /// count moves only if there is a target, as in the kernel.
    pub(super) fn tail_call(&mut self, find: u64) {
        self.compare_immediate(Width::W32, RBP, MAX_TAIL_CALL_CNT as i32);
        let full = self.buffer.hop_if(Cc::AE);
        emit!(self, mov[rsp], rdi);
        emit!(self, mov rdi, rsi);
        emit!(self, mov esi, edx);
        emit!(self, mov rdx, r12);
        self.load_constant(R11, find);
        emit!(self, call Rq(R11));
        emit!(self, test rax, rax);
        let none = self.buffer.hop_if(Cc::E);
        emit!(self, inc ebp);
        emit!(self, mov rdi, [rsp]);
        emit!(self, mov rsi, r12);
        self.unwind();
        emit!(self, jmp rax);
        self.buffer.land(none);
        self.buffer.land(full);
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
