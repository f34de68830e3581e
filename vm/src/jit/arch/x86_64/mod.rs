//! The x86-64 compiler: one instruction after another, in two passes, of
//! which the second knows which jumps are short. It knows linked programs
//! ([`Code`]) and System V's C calling convention.
//!
//! Reading order: [`frame`] says where everything is, `alu`, `access` and
//! `control` emit instructions, [`buffer`] holds the code, [`memory`] makes
//! it executable.

#![expect(
    clippy::useless_conversion,
    reason = "dynasm converts every register number and immediate"
)]

mod access;
mod alu;
mod buffer;
mod control;
mod frame;
mod memory;

pub(in crate::jit) use memory::ExecutableMemory;

use dynasmrt::DynasmApi;

use crate::jit::MachineCode;
use crate::link::{Code, LinkError, Step};
use crate::op::{Op, Reg, Size, Swap, Width};
use buffer::{Buffer, Places};
use frame::{Frame, R11};

/// Emits one instruction of which no operand is a byte register.
macro_rules! emit {
    ($compiler:expr, $($instruction:tt)*) => {{
        let start = $compiler.buffer.offset();
        dynasmrt::dynasm!($compiler.buffer.asm; .arch x64; $($instruction)*);
        $compiler.buffer.drop_empty_rex(start);
    }};
}

/// Emits one instruction with a byte register.
macro_rules! emit_byte {
    ($compiler:expr, $($instruction:tt)*) => {
        dynasmrt::dynasm!($compiler.buffer.asm; .arch x64; $($instruction)*)
    };
}

use {emit, emit_byte};

/// Compiles a linked program.
///
/// # Errors
/// The code would be larger than jumps reach.
pub(in crate::jit) fn compile(code: &Code, features: Features) -> Result<MachineCode, LinkError> {
    let pass = |estimate| Compiler::new(code, features, estimate).program();
    let (_, estimate) = pass(None)?;
    let (machine_code, _) = pass(Some(estimate))?;
    Ok(machine_code)
}

/// One pass over a program.
struct Compiler<'a> {
    code: &'a Code,
    buffer: Buffer,
    /// Of the subprogram being compiled.
    frame: Frame,
    features: Features,
}

/// What a processor can do beyond the base architecture.
#[derive(Clone, Copy)]
pub(in crate::jit) struct Features {
    bmi2: bool,
}

impl Features {
    /// Nothing.
    #[cfg(any(test, feature = "testing"))]
    pub(in crate::jit) const BASELINE: Features = Features { bmi2: false };

    /// What this processor can do.
    pub(in crate::jit) fn detect() -> Features {
        Features {
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
        }
    }
}

impl<'a> Compiler<'a> {
    fn new(code: &'a Code, features: Features, estimate: Option<Places>) -> Compiler<'a> {
        Compiler {
            code,
            buffer: Buffer::new(estimate),
            frame: Frame::default(),
            features,
        }
    }

    fn program(mut self) -> Result<(MachineCode, Places), LinkError> {
        let tail_calls = self.code.has_tail_call();
        let needs_run = tail_calls || self.code.steps.iter().any(|s| matches!(s, Step::Helper(_)));
        if tail_calls {
            self.counting_entry();
        }
        let tail_target = self.buffer.offset();
        for (index, subprogram) in self.code.subprograms.iter().enumerate() {
            let range = &subprogram.slots;
            let takes_run = index == 0 && needs_run && !tail_calls;
            self.frame = Frame::new(self.code, subprogram, takes_run);
            self.buffer.begin_subprogram();
            self.prologue(takes_run);
            for at in range.clone() {
                self.buffer.begin_slot();
                // The last of a run of unreachable slots stands for all.
                let dead = |at: usize| matches!(self.code.steps[at], Step::Unreachable);
                let repeated = at + 1 < range.end && dead(at) && dead(at + 1);
                if !repeated {
                    self.step(at)?;
                }
            }
        }
        for &callback in &self.code.callbacks {
            self.callback_entry(self.code.subprogram_at(callback));
        }
        let (bytes, places) = self.buffer.finish()?;
        Ok((
            MachineCode {
                bytes,
                entry: 0,
                tail_target,
            },
            places,
        ))
    }

    fn step(&mut self, at: usize) -> Result<(), LinkError> {
        match self.code.steps[at] {
            Step::Op(op) => self.op(at, op)?,
            Step::Const { dst, value } => {
                let dst = self.machine(dst);
                self.load_constant(dst, value);
            }
            Step::Func { dst, slot } => self.load_callback(dst, slot),
            Step::Helper(helper) => self.call_helper(helper as *const () as u64),
            Step::TailCall(find) => self.tail_call(find as *const () as u64),
            Step::Skip => {}
            Step::Unreachable => {
                self.load_constant(frame::RAX, 0);
                self.epilogue();
            }
        }
        Ok(())
    }

    fn op(&mut self, at: usize, op: Op) -> Result<(), LinkError> {
        match op {
            Op::Alu {
                width,
                op,
                dst,
                src,
            } => self.alu(width, op, dst, src),
            Op::Neg { width, dst } => {
                let dst = self.machine(dst);
                match width {
                    Width::W64 => emit!(self, neg Rq(dst)),
                    Width::W32 => emit!(self, neg Rd(dst)),
                }
            }
            Op::MovSx {
                width,
                from,
                dst,
                src,
            } => self.move_extended(width, from, dst, src),
            Op::Swap { kind, size, dst } => self.swap(kind != Swap::Le, size, dst),
            Op::Load {
                size,
                signed,
                dst,
                addr,
            } => self.load(size, signed, dst, addr),
            // x86 orders loads before later accesses and stores after earlier
            // ones: acquire and release need no more.
            Op::LoadAcquire { size, dst, addr } => self.load(size, false, dst, addr),
            Op::StoreRelease { size, addr, src } => self.store_register(size, addr, src),
            Op::Store { size, addr, src } => self.store(size, addr, src),
            Op::Atomic {
                op,
                fetch,
                size,
                addr,
                src,
            } => self.atomic(op, fetch, size, addr, src),
            Op::Jump { rel, .. } => self.jump(at, rel)?,
            Op::Branch {
                width,
                cond,
                dst,
                src,
                rel,
            } => {
                self.branch(at, width, cond, dst, src, rel.into())?;
            }
            Op::CallSub { rel } => self.call_subprogram(at, rel)?,
            Op::Exit => self.epilogue(),
            Op::MayGoto { rel } => self.may_goto(at, rel.into())?,
            Op::LoadImm { .. } | Op::CallHelper { .. } | Op::CallKfunc { .. } => {
                unreachable!("linking replaces names by addresses")
            }
        }
        Ok(())
    }

    /// The machine register that holds the value of `reg` for one
    /// instruction, which must not write to it: r10 is computed first.
    fn machine(&mut self, reg: Reg) -> u8 {
        if let Some(register) = frame::machine(reg) {
            return register;
        }
        let top = self.frame.top;
        if top == 0 {
            emit!(self, mov Rq(R11), rsp);
        } else if let Ok(top) = i8::try_from(top) {
            emit!(self, lea Rq(R11), [BYTE rsp + top]);
        } else {
            emit!(self, lea Rq(R11), [DWORD rsp + top]);
        }
        R11
    }

    /// The low bits of `dst` in the other byte order, or just the low bits.
    fn swap(&mut self, swaps: bool, size: Size, dst: Reg) {
        let dst = self.machine(dst);
        match (size, swaps) {
            (Size::B, _) => emit_byte!(self, movzx Rd(dst), Rb(dst)),
            (Size::H, false) => emit!(self, movzx Rd(dst), Rw(dst)),
            (Size::H, true) => {
                emit!(self, rol Rw(dst), 8);
                emit!(self, movzx Rd(dst), Rw(dst));
            }
            (Size::W, false) => emit!(self, mov Rd(dst), Rd(dst)),
            (Size::W, true) => emit!(self, bswap Rd(dst)),
            (Size::DW, false) => {}
            (Size::DW, true) => emit!(self, bswap Rq(dst)),
        }
    }
}
