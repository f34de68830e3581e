//! Which bits of registers are known to be zero, by one walk over all paths.
//! Knows values, no machine. The verifier's numbers would be sharper, but it
//! leaves out paths whose numbers did not matter to it.

use super::flow::{CALLER_SAVED, Flow, Regs, bit, falls_through, jump_target};
use crate::link::{Code, Step};
use crate::op::{AluOp, AtomicOp, Cond, Op, Operand, Reg, Size, Swap, Width};

/// The bits of r0…r9 that may be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits {
    ones: [u64; 10],
    /// Registers that are not zero.
    nonzero: Regs,
}

const LOW: u64 = u32::MAX as u64;

/// Rounds after which a set of bits that still grows becomes all of its width.
const EXACT_ROUNDS: u32 = 3;

impl Bits {
    /// Nothing is known.
    pub const UNKNOWN: Bits = Bits {
        ones: [u64::MAX; 10],
        nonzero: 0,
    };

    /// Bits of `reg` that may be one.
    pub fn of(&self, reg: Reg) -> u64 {
        let known = self.ones.get(usize::from(reg.number()));
        known.copied().unwrap_or(u64::MAX)
    }

    /// Bits of an operand that may be one, at a width.
    pub fn of_operand(&self, operand: Operand, width: Width) -> u64 {
        let value = match operand {
            Operand::Reg(reg) => self.of(reg),
            Operand::Imm(imm) => imm as i64 as u64,
        };
        at(width, value)
    }

    /// Whether the upper half of `reg` is zero.
    pub fn is_narrow(&self, reg: Reg) -> bool {
        self.of(reg) <= LOW
    }

    /// Whether the lower half of `reg`, or all of it, is not zero.
    pub fn is_nonzero(&self, width: Width, reg: Reg) -> bool {
        let whole = width == Width::W64 || self.is_narrow(reg);
        whole && self.nonzero & bit(reg) != 0
    }

    fn set(&mut self, reg: Reg, bits: u64) {
        if let Some(known) = self.ones.get_mut(usize::from(reg.number())) {
            *known = bits;
            self.nonzero &= !bit(reg);
        }
    }

    /// What holds after a step, whichever way it goes.
    pub fn step(&mut self, step: &Step) {
        match *step {
            Step::Const { dst, value } => {
                self.set(dst, value);
                self.nonzero |= if value != 0 { bit(dst) } else { 0 };
            }
            Step::Func { dst, .. } => self.set(dst, u64::MAX),
            Step::Helper { .. } | Step::TailCall(_) | Step::Op(Op::CallSub { .. }) => {
                self.ones[..6].fill(u64::MAX);
                self.nonzero &= !CALLER_SAVED;
            }
            Step::Skip | Step::Unreachable => {}
            Step::Op(op) => self.op(op),
        }
    }

    fn op(&mut self, op: Op) {
        match op {
            Op::Alu {
                width,
                op,
                dst,
                src,
            } => {
                let a = at(width, self.of(dst));
                let b = self.of_operand(src, width);
                let imm = match src {
                    Operand::Imm(imm) => Some(imm),
                    Operand::Reg(_) => None,
                };
                let nonzero = match (op, src) {
                    (AluOp::Mov, Operand::Reg(src)) => self.is_nonzero(width, src),
                    (AluOp::Mov | AluOp::Or, Operand::Imm(imm)) => imm != 0,
                    _ => false,
                };
                self.set(dst, at(width, alu(width, op, a, b, imm)));
                self.nonzero |= if nonzero { bit(dst) } else { 0 };
            }
            Op::Neg { width, dst } => self.set(dst, at(width, u64::MAX)),
            Op::MovSx {
                width,
                from,
                dst,
                src,
            } => {
                let bits = self.of(src) & ones(from.bits());
                let positive = bits >> (from.bits() - 1) == 0;
                let extended = if positive { bits } else { u64::MAX };
                self.set(dst, at(width, extended));
            }
            Op::Swap { kind, size, dst } => {
                let bits = match kind {
                    Swap::Le => self.of(dst),
                    Swap::Be | Swap::Always => u64::MAX,
                };
                self.set(dst, bits & ones(size.bits()));
            }
            Op::Load {
                size, signed, dst, ..
            } => self.set(dst, loaded(size, signed)),
            Op::LoadAcquire { size, dst, .. } => self.set(dst, loaded(size, false)),
            Op::Atomic {
                op: AtomicOp::CmpXchg,
                ..
            } => self.set(Reg::R0, u64::MAX),
            Op::Atomic {
                fetch: true, src, ..
            } => self.set(src, u64::MAX),
            Op::LoadImm { dst, .. } => self.set(dst, u64::MAX),
            Op::Atomic { .. }
            | Op::Store { .. }
            | Op::StoreRelease { .. }
            | Op::Jump { .. }
            | Op::Branch { .. }
            | Op::MayGoto { .. }
            | Op::CallKfunc { .. }
            | Op::CallHelper { .. }
            | Op::CallSub { .. }
            | Op::Exit => {}
        }
    }

    /// What holds besides where a branch was taken, or was not.
    pub fn refine(&mut self, branch: &Step, taken: bool) {
        let Step::Op(Op::Branch {
            width,
            cond,
            dst,
            src: Operand::Imm(imm),
            ..
        }) = *branch
        else {
            return;
        };
        // A 32-bit comparison says something of the lower half only.
        if width == Width::W32 && !self.is_narrow(dst) || width == Width::W64 && imm < 0 {
            return;
        }
        let imm = u64::from(imm as u32);
        let differs = match (cond, taken) {
            (Cond::Ne, true) | (Cond::Eq, false) => imm == 0,
            (Cond::Gt, true) | (Cond::Le, false) => true,
            (Cond::Ge, true) | (Cond::Lt, false) => imm > 0,
            _ => false,
        };
        if differs {
            self.nonzero |= bit(dst);
        }
        let most = match (cond, taken) {
            (Cond::Eq, true) | (Cond::Ne, false) => self.of(dst) & imm,
            (Cond::Le, true) | (Cond::Gt, false) => imm,
            (Cond::Lt, true) | (Cond::Ge, false) => imm.saturating_sub(1),
            _ => return,
        };
        if let Some(ones) = self.ones.get_mut(usize::from(dst.number())) {
            *ones &= below(most);
        }
    }

    /// Adds what may be one in `other`; whether that was anything new.
    fn merge(&mut self, other: &Bits, widen: bool) -> bool {
        let nonzero = self.nonzero & other.nonzero;
        let mut changed = nonzero != self.nonzero;
        self.nonzero = nonzero;
        for (mine, &theirs) in self.ones.iter_mut().zip(&other.ones) {
            let both = *mine | theirs;
            if both != *mine {
                changed = true;
                *mine = match widen {
                    false => both,
                    true if both <= LOW => LOW,
                    true => u64::MAX,
                };
            }
        }
        changed
    }
}

/// The bits at the leaders of a program.
pub(super) struct LeaderBits {
    /// By slot: index into `bits`, of leaders only.
    index: Vec<u32>,
    bits: Vec<Option<Bits>>,
}

impl LeaderBits {
    /// Of a linked program.
    pub fn new(code: &Code, flow: &Flow) -> LeaderBits {
        let mut count = 0;
        let index = flow.leaders.iter().map(|&leader| {
            count += u32::from(leader);
            count.wrapping_sub(1)
        });
        let mut known = LeaderBits {
            index: index.collect(),
            bits: Vec::new(),
        };
        known.bits.resize(count as usize, None);
        for subprogram in &code.subprograms {
            known.merge(subprogram.slots.start, &Bits::UNKNOWN, false);
        }
        let mut round = 1;
        while known.propagate(code, flow, round > EXACT_ROUNDS) {
            round += 1;
        }
        known
    }

    /// What holds at a leader.
    pub fn at(&self, leader: usize) -> Bits {
        self.bits[self.index[leader] as usize].unwrap_or(Bits::UNKNOWN)
    }

    fn merge(&mut self, leader: usize, bits: &Bits, widen: bool) -> bool {
        match &mut self.bits[self.index[leader] as usize] {
            Some(known) => known.merge(bits, widen),
            unseen => {
                *unseen = Some(*bits);
                true
            }
        }
    }

    /// One round over all slots; whether what held behind a jump changed.
    fn propagate(&mut self, code: &Code, flow: &Flow, widen: bool) -> bool {
        let mut again = false;
        let mut state: Option<Bits> = None;
        for (at, step) in code.steps.iter().enumerate() {
            if flow.leaders[at] {
                if let Some(bits) = &state {
                    self.merge(at, bits, widen && flow.loop_heads[at]);
                }
                state = self.bits[self.index[at] as usize];
            }
            let Some(bits) = &mut state else { continue };
            if let Some(to) = jump_target(at, step) {
                let mut there = *bits;
                there.refine(step, true);
                let changed = self.merge(to, &there, widen && to <= at);
                again |= changed && to <= at;
                bits.refine(step, false);
            }
            bits.step(step);
            if !falls_through(step) {
                state = None;
            }
        }
        again
    }
}

/// A value's bits at a width.
fn at(width: Width, bits: u64) -> u64 {
    match width {
        Width::W32 => bits & LOW,
        Width::W64 => bits,
    }
}

/// The lowest `count` bits, of which there is at least one.
fn ones(count: u32) -> u64 {
    u64::MAX >> (64 - count)
}

/// All bits that a number up to `most` may have.
fn below(most: u64) -> u64 {
    u64::MAX.checked_shr(most.leading_zeros()).unwrap_or(0)
}

fn loaded(size: Size, signed: bool) -> u64 {
    if signed { u64::MAX } else { ones(size.bits()) }
}

/// Bits of `a op b`, whose upper half is cut off where it does not count.
fn alu(width: Width, op: AluOp, a: u64, b: u64, imm: Option<i32>) -> u64 {
    let count = imm.map(|imm| imm as u32 & if width == Width::W64 { 63 } else { 31 });
    match op {
        AluOp::Mov => b,
        AluOp::And => a & b,
        AluOp::Or | AluOp::Xor => a | b,
        AluOp::Add => a.checked_add(b).map_or(u64::MAX, below),
        AluOp::Mul => a.checked_mul(b).map_or(u64::MAX, below),
        AluOp::Lsh => count.map_or(u64::MAX, |count| a << count),
        AluOp::Rsh => count.map_or(below(a), |count| a >> count),
        AluOp::Arsh => {
            let sign = match width {
                Width::W64 => a >> 63,
                Width::W32 => a >> 31,
            };
            match (sign, count) {
                (0, Some(count)) => a >> count,
                (0, None) => below(a),
                _ => u64::MAX,
            }
        }
        AluOp::Div => below(a),
        AluOp::Mod => match imm {
            Some(_) if b > 0 => below(a).min(below(b - 1)),
            _ => below(a),
        },
        AluOp::Sub | AluOp::Sdiv | AluOp::Smod => u64::MAX,
    }
}
