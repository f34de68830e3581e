//! The x86-64 compiler: one instruction after another, in one pass. It knows
//! linked programs ([`Code`]) and System V's C calling convention.
//!
//! Reading order: [`frame`] says where everything is; [`values`] is how a
//! value can wait for its use, and [`operands`] how instructions take it;
//! `alu`, `divide`, `access`, `branch`, `calls` and `lookup` compile
//! instructions, with `sums`, `bytes`, `rotate`, `modify` and `constant` for
//! what several of them come to;
//! [`encode`] and [`instructions`] know bytes, [`buffer`] and [`layout`]
//! jumps; [`memory`] makes code executable.

mod access;
mod alu;
mod branch;
mod buffer;
mod bulk;
mod bytes;
mod calls;
mod constant;
mod divide;
mod encode;
mod frame;
mod instructions;
mod layout;
mod lookup;
mod memory;
mod modify;
mod operands;
mod rotate;
mod sums;
mod values;

pub(in crate::jit) use memory::ExecutableMemory;

use crate::jit::bits::{Bits, LeaderBits};
use crate::jit::flow::{Flow, Regs, falls_through};
use crate::jit::{MachineCode, Optimisations};
use crate::link::{Code, LinkError, Step, target};
use crate::op::Op;
use branch::Comparison;
use buffer::Buffer;
use encode::Assembler;
use frame::Frame;
use modify::Modification;
use values::{Stored, Values};

/// Loop heads begin on a multiple of 2 to the power of this: what processors
/// fetch at once. More makes code larger and nothing faster.
const LOOP_ALIGNMENT: u8 = 5;

/// Compiles a linked program.
///
/// # Errors
/// The code would be larger than jumps reach.
pub(in crate::jit) fn compile(
    code: &Code,
    features: Features,
    optimisations: &Optimisations,
) -> Result<MachineCode, LinkError> {
    let flow = Flow::new(code);
    let known = optimisations
        .value_masks
        .then(|| LeaderBits::new(code, &flow));
    let compiler = Compiler {
        code,
        flow: &flow,
        known,
        optimisations,
        features,
        buffer: Buffer::new(code.steps.len(), optimisations),
        frame: Frame::default(),
        values: Values::default(),
        bits: Bits::UNKNOWN,
        after: 0,
        stored: None,
    };
    compiler.program()
}

/// One pass over a program.
struct Compiler<'a> {
    code: &'a Code,
    flow: &'a Flow,
    known: Option<LeaderBits>,
    optimisations: &'a Optimisations,
    features: Features,
    buffer: Buffer,
    /// Of the subprogram being compiled.
    frame: Frame,
    /// What registers stand for now.
    values: Values,
    /// What is known of them now.
    bits: Bits,
    /// Registers whose values are needed after the step being compiled.
    after: Regs,
    /// What was stored last, if that is still known.
    stored: Option<Stored>,
}

/// What a processor can do beyond the base architecture.
#[derive(Clone, Copy)]
pub(in crate::jit) struct Features {
    bmi2: bool,
    movbe: bool,
}

impl Features {
    /// Nothing.
    #[cfg(any(test, feature = "testing"))]
    pub(in crate::jit) const BASELINE: Features = Features {
        bmi2: false,
        movbe: false,
    };

    /// What this processor can do.
    pub(in crate::jit) fn detect() -> Features {
        Features {
            bmi2: std::arch::is_x86_feature_detected!("bmi2"),
            movbe: std::arch::is_x86_feature_detected!("movbe"),
        }
    }
}

impl Compiler<'_> {
    fn asm(&mut self) -> &mut Assembler {
        &mut self.buffer.asm
    }

    fn bmi2(&self) -> bool {
        self.features.bmi2 && self.optimisations.bmi2
    }

    fn program(mut self) -> Result<MachineCode, LinkError> {
        let tail_calls = self.code.has_tail_call();
        let calls = |step: &Step| matches!(step, Step::Helper { .. });
        let needs_run = tail_calls || self.code.steps.iter().any(calls);
        if tail_calls {
            self.counting_entry();
        }
        for index in 0..self.code.subprograms.len() {
            let takes_run = index == 0 && needs_run && !tail_calls;
            self.subprogram(index, takes_run)?;
        }
        for &callback in &self.code.callbacks {
            self.callback_entry(self.code.subprogram_at(callback));
        }
        let code = self.buffer.finish()?;
        Ok(MachineCode {
            bytes: code.bytes,
            entry: 0,
            tail_target: code.start,
            calls: code.calls,
        })
    }

    fn subprogram(&mut self, index: usize, takes_run: bool) -> Result<(), LinkError> {
        let subprogram = &self.code.subprograms[index];
        let slots = subprogram.slots.clone();
        self.frame = Frame::new(self.code, subprogram, takes_run, self.optimisations);
        self.values = Values::default();
        self.buffer.begin_subprogram();
        self.prologue(takes_run);
        let mut next = slots.start;
        for at in slots.clone() {
            if self.flow.leaders[at] {
                self.leader(at);
            }
            self.buffer.begin_slot();
            // The last of a run of unreachable slots stands for all.
            let dead = |at: usize| matches!(self.code.steps[at], Step::Unreachable);
            let repeated = at + 1 < slots.end && dead(at) && dead(at + 1);
            if at < next || repeated {
                continue;
            }
            next = at + self.step(at)?;
        }
        Ok(())
    }

    /// Begins a slot to which control may come from elsewhere.
    fn leader(&mut self, at: usize) {
        self.settle_all(self.flow.live_before(at));
        self.values = Values::default();
        self.stored = None;
        if let Some(known) = &self.known {
            self.bits = known.at(at);
        }
        if let Some(bulk) = self.flow.bulks.get(&at)
            && self.optimisations.bulk_loops
            && at > 0
            && falls_through(&self.code.steps[at - 1])
        {
            self.bulk(at, bulk);
        }
        if self.flow.loop_heads[at] && self.optimisations.aligned_loops {
            // Padding that nobody runs through costs nothing.
            let runs_through = at > 0 && falls_through(&self.code.steps[at - 1]);
            if !runs_through || self.flow.enters_loop(self.code, at) {
                self.buffer.align(LOOP_ALIGNMENT);
            }
        }
    }

    /// Compiles the step at a slot; how many steps that took.
    fn step(&mut self, at: usize) -> Result<usize, LinkError> {
        let step = &self.code.steps[at];
        self.values.keep(self.flow.live_before(at));
        self.after = self.flow.live_after(at, step);
        let mut taken = 1;
        match *step {
            Step::Op(op) => taken = self.op(at, op)?,
            Step::Const { dst, value } => self.set_constant(dst, value),
            Step::Func { dst, slot } => self.load_callback(dst, slot),
            Step::Helper { id, call } => self.helper(id, call as *const () as u64),
            Step::TailCall(find) => self.tail_call(find as *const () as u64),
            Step::Skip => {}
            Step::Unreachable => self.unreachable(),
        }
        if self.known.is_some() {
            self.bits.refine(step, false);
            self.bits.step(step);
        }
        Ok(taken)
    }

    fn op(&mut self, at: usize, op: Op) -> Result<usize, LinkError> {
        match op {
            Op::Alu {
                width,
                op,
                dst,
                src,
            } => {
                let modification = Modification {
                    width,
                    op,
                    dst,
                    src,
                };
                if self.modify(at, modification) {
                    return Ok(2);
                }
                self.alu(width, op, dst, src);
            }
            Op::Neg { width, dst } => self.negate(width, dst),
            Op::MovSx {
                width,
                from,
                dst,
                src,
            } => self.move_extended(width, from, dst, src),
            Op::Swap { kind, size, dst } => self.swap(kind, size, dst),
            Op::Load {
                size,
                signed,
                dst,
                addr,
            } => self.load(size, signed, dst, addr),
            Op::LoadAcquire { size, dst, addr } => self.load_acquire(size, dst, addr),
            Op::StoreRelease { size, addr, src } => {
                self.store(size, addr, crate::op::Operand::Reg(src));
            }
            Op::Store { size, addr, src } => self.store(size, addr, src),
            Op::Atomic {
                op,
                fetch,
                size,
                addr,
                src,
            } => self.atomic(op, fetch, size, addr, src),
            Op::Jump { rel, .. } => self.jump(at, target(at, rel)?),
            Op::Branch {
                width,
                cond,
                dst,
                src,
                rel,
            } => {
                let comparison = Comparison {
                    width,
                    cond,
                    dst,
                    src,
                };
                let both = self.branch(at, comparison, target(at, rel.into())?);
                return Ok(1 + usize::from(both));
            }
            Op::CallSub { rel } => self.call_subprogram(target(at, rel)?),
            Op::Exit => self.exit(),
            Op::MayGoto { rel } => self.may_goto(at, target(at, rel.into())?)?,
            Op::LoadImm { .. } | Op::CallHelper { .. } | Op::CallKfunc { .. } => {
                unreachable!("linking replaces names by addresses")
            }
        }
        Ok(1)
    }
}
