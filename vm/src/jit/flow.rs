//! Where control goes in a program and which registers are still needed
//! there. Knows no machine.

use std::collections::BTreeMap;

use super::bulk::{self, Bulk};
use crate::link::{Code, Step, target};
use crate::op::{AluOp, AtomicOp, Op, Operand, Reg};

/// A set of registers, bit n for rn; r10 is always live and never in it.
pub(super) type Regs = u16;

/// r0 to r5, which calls overwrite.
pub(super) const CALLER_SAVED: Regs = 0x3f;
/// r1 to r5.
const ARGUMENTS: Regs = 0x3e;

/// The set of one register.
pub(super) fn bit(reg: Reg) -> Regs {
    (1 << reg.number()) & 0x3ff
}

/// Slots of the longest loop that is looked at.
const MAX_LOOP: usize = 1024;

/// What is known of a program's control flow.
pub(super) struct Flow {
    /// By slot: whether a jump or a subprogram's beginning leads here.
    pub leaders: Vec<bool>,
    /// By slot: whether a jump from behind leads here, so that it begins a
    /// loop or the part of one that was moved to its front.
    pub loop_heads: Vec<bool>,
    /// Loops that fill or copy memory, by the slots where they begin; a
    /// leader follows each.
    pub bulks: BTreeMap<usize, Bulk>,
    /// By slot: registers whose values may be used from there on.
    live: Vec<Regs>,
}

impl Flow {
    /// Of a linked program.
    pub fn new(code: &Code) -> Flow {
        let slots = code.steps.len();
        let mut flow = Flow {
            leaders: vec![false; slots],
            loop_heads: vec![false; slots],
            bulks: BTreeMap::new(),
            live: vec![0; slots + 1],
        };
        for subprogram in &code.subprograms {
            flow.leaders[subprogram.slots.start] = true;
        }
        let mut backward = false;
        for (at, step) in code.steps.iter().enumerate() {
            if let Some(to) = jump_target(at, step) {
                flow.leaders[to] = true;
                flow.loop_heads[to] |= to <= at;
                backward |= to <= at;
            }
        }
        // Without a loop one round sees every successor before its predecessors.
        while flow.propagate(code) && backward {}
        for head in (0..slots).filter(|&at| flow.loop_heads[at]) {
            if let Some(bulk) = bulk::recognise(code, head, |at| flow.live[at]) {
                flow.bulks.insert(head, bulk);
            }
        }
        for bulk in flow.bulks.values() {
            flow.leaders[bulk.end] = true;
        }
        flow
    }

    /// One round over all slots, from the last; whether anything changed.
    fn propagate(&mut self, code: &Code) -> bool {
        let mut changed = false;
        for (at, step) in code.steps.iter().enumerate().rev() {
            let (uses, defines) = effect(step);
            let live = self.live_after(at, step) & !defines | uses;
            changed |= live != self.live[at];
            self.live[at] = live;
        }
        changed
    }

    /// Whether what is before a loop head is left once per loop, not once per
    /// round. In the order that compilers like, the end of a loop may stand
    /// before its beginning; then something in the loop jumps to before it.
    pub fn enters_loop(&self, code: &Code, head: usize) -> bool {
        let end = (head + MAX_LOOP).min(code.steps.len());
        let back = (head..end).filter_map(|at| {
            let to = jump_target(at, &code.steps[at])?;
            (to <= at).then_some((at, to))
        });
        let last = back.clone().rfind(|&(_, to)| to == head);
        let Some((last, _)) = last else { return false };
        !back.clone().any(|(at, to)| at <= last && to < head)
    }

    /// Registers whose values may be used at `at` or later.
    pub fn live_before(&self, at: usize) -> Regs {
        self.live[at]
    }

    /// Registers whose values may be used after the step at `at`.
    pub fn live_after(&self, at: usize, step: &Step) -> Regs {
        let next = self.live[at + 1];
        match *step {
            Step::Op(Op::Exit) | Step::Unreachable => 0,
            Step::Op(Op::Jump { .. }) => self.live_at_target(at, step),
            Step::Op(Op::Branch { .. } | Op::MayGoto { .. }) => {
                next | self.live_at_target(at, step)
            }
            _ => next,
        }
    }

    fn live_at_target(&self, at: usize, step: &Step) -> Regs {
        jump_target(at, step).map_or(0, |to| self.live[to])
    }
}

/// Whether control may go from a step to the next.
pub(super) fn falls_through(step: &Step) -> bool {
    !matches!(
        step,
        Step::Op(Op::Exit | Op::Jump { .. }) | Step::Unreachable
    )
}

/// Where a jump or branch leads; linking saw that it is a slot.
pub(super) fn jump_target(at: usize, step: &Step) -> Option<usize> {
    let rel = match *step {
        Step::Op(Op::Jump { rel, .. }) => rel,
        Step::Op(Op::Branch { rel, .. } | Op::MayGoto { rel }) => rel.into(),
        _ => return None,
    };
    target(at, rel).ok()
}

/// Registers that a step reads, and those that it overwrites.
pub(super) fn effect(step: &Step) -> (Regs, Regs) {
    let operand = |operand: Operand| match operand {
        Operand::Reg(reg) => bit(reg),
        Operand::Imm(_) => 0,
    };
    match *step {
        Step::Const { dst, .. } | Step::Func { dst, .. } => (0, bit(dst)),
        Step::Helper { .. } | Step::TailCall(_) => (ARGUMENTS, CALLER_SAVED),
        Step::Skip | Step::Unreachable => (0, 0),
        Step::Op(op) => match op {
            Op::Alu { op, dst, src, .. } => match op {
                AluOp::Mov => (operand(src), bit(dst)),
                _ => (bit(dst) | operand(src), bit(dst)),
            },
            Op::Neg { dst, .. } | Op::Swap { dst, .. } => (bit(dst), bit(dst)),
            Op::MovSx { dst, src, .. } => (bit(src), bit(dst)),
            Op::Load { dst, addr, .. } | Op::LoadAcquire { dst, addr, .. } => {
                (bit(addr.base), bit(dst))
            }
            Op::Store { addr, src, .. } => (bit(addr.base) | operand(src), 0),
            Op::StoreRelease { addr, src, .. } => (bit(addr.base) | bit(src), 0),
            Op::Atomic {
                op,
                fetch,
                addr,
                src,
                ..
            } => {
                let named = bit(addr.base) | bit(src);
                match op {
                    AtomicOp::CmpXchg => (named | bit(Reg::R0), bit(Reg::R0)),
                    _ if fetch => (named, bit(src)),
                    _ => (named, 0),
                }
            }
            Op::LoadImm { dst, .. } => (0, bit(dst)),
            Op::Jump { .. } | Op::MayGoto { .. } => (0, 0),
            Op::Branch { dst, src, .. } => (bit(dst) | operand(src), 0),
            Op::CallHelper { .. } | Op::CallKfunc { .. } | Op::CallSub { .. } => {
                (ARGUMENTS, CALLER_SAVED)
            }
            Op::Exit => (bit(Reg::R0), 0),
        },
    }
}
