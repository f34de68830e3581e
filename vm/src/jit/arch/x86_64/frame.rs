//! Where a subprogram's registers and stack are. Emits nothing.
//!
//! | eBPF | x86-64 | |
//! |---|---|---|
//! | r0 | rax | result of C functions too |
//! | r1…r5 | rdi rsi rdx rcx r8 | arguments of C functions too |
//! | r6…r9 | rbx r13 r14 r15 | preserved by C functions too |
//! | r10 | rsp + a constant | never needs a register |
//!
//! r12 holds the run context in programs that call helpers; rbp counts tail
//! calls in programs that make them and is otherwise untouched, so that walks
//! along frame pointers pass through. r9, r10, r11 are free for the use of
//! one instruction; putting a value into its register (`values`) may change
//! r10 and r11, and r9 while values change places. Subprograms follow the C
//! convention, so that a call is a `call`, and each saves only what it uses.

use super::encode::{Gpr, R8, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI};
use crate::jit::Optimisations;
use crate::jit::flow::effect;
use crate::link::{Code, Step, Subprogram};
use crate::op::{Address, Op, Operand, Reg};
use uapi::insn::MAX_BPF_STACK;

/// The count of tail calls.
pub(super) const TAIL_CALLS: Gpr = RBP;
/// The run context.
pub(super) const RUN: Gpr = R12;

const MACHINE: [Gpr; 10] = [RAX, RDI, RSI, RDX, RCX, R8, RBX, R13, R14, R15];

/// Bytes below the stack pointer that signal handlers leave alone.
const RED_ZONE: u32 = 128;

/// The machine register of r0…r9; `None` for r10.
pub(super) fn machine(reg: Reg) -> Option<Gpr> {
    MACHINE.get(usize::from(reg.number())).copied()
}

/// The frame of one subprogram.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    /// Registers pushed on entry, in order.
    pub saved: Vec<Gpr>,
    /// Bytes by which the stack pointer moves after the pushes.
    pub bytes: i32,
    /// r10 minus rsp.
    pub top: i32,
    /// Where `may_goto`'s budget is, from rsp.
    pub loops: Option<i8>,
}

impl Frame {
    /// Lays out the frame of a subprogram of `code`. `saves_run` tells that
    /// it must preserve the caller's r12.
    pub(super) fn new(
        code: &Code,
        subprogram: &Subprogram,
        saves_run: bool,
        optimisations: &Optimisations,
    ) -> Frame {
        let steps = &code.steps[subprogram.slots.clone()];
        let calls = steps.iter().any(|s| {
            matches!(
                s,
                Step::Helper { .. } | Step::TailCall(_) | Step::Op(Op::CallSub { .. })
            )
        });
        // A tail call keeps the ctx here while it looks up its target.
        let tail_calls = steps.iter().any(|s| matches!(s, Step::TailCall(_)));
        let ctx_slot = if tail_calls { 8 } else { 0 };
        let may_goto = steps
            .iter()
            .any(|s| matches!(s, Step::Op(Op::MayGoto { .. })));
        let slots = ctx_slot + if may_goto { 8 } else { 0 };
        let loops = may_goto.then_some(ctx_slot as i8);

        let mut used = steps
            .iter()
            .map(effect)
            .fold(0, |used, (a, b)| used | a | b);
        let mut stack = stack_needed(steps, subprogram.stack_bytes);
        if !optimisations.small_frames {
            (used, stack) = (0x3ff, MAX_BPF_STACK);
        }
        let mut saved = if saves_run { vec![RUN] } else { Vec::new() };
        saved.extend((6..=9).filter(|n| used & (1 << n) != 0).map(|n| MACHINE[n]));

        if !calls && !may_goto && stack <= RED_ZONE {
            return Frame {
                saved,
                bytes: 0,
                top: 0,
                loops,
            };
        }
        let mut bytes = stack + slots;
        // C functions want the stack pointer on a multiple of 16 at the call.
        if !(8 + 8 * saved.len() as u32 + bytes).is_multiple_of(16) {
            bytes += 8;
        }
        Frame {
            saved,
            bytes: bytes as i32,
            top: bytes as i32,
            loops,
        }
    }
}

/// Bytes of stack below r10, a multiple of 8. Exact where r10 is only the
/// base of loads and stores; where its value goes elsewhere, the verifier's bound.
fn stack_needed(steps: &[Step], bound: u32) -> u32 {
    let mut deepest = 0;
    for step in steps {
        let Step::Op(op) = step else { continue };
        if escapes(op) {
            return bound.next_multiple_of(8);
        }
        if let Some(Address {
            base: Reg::R10,
            off,
        }) = address(op)
            && off < 0
        {
            deepest = deepest.max(u32::from(off.unsigned_abs()));
        }
    }
    deepest.next_multiple_of(8)
}

fn address(op: &Op) -> Option<Address> {
    match *op {
        Op::Load { addr, .. }
        | Op::Store { addr, .. }
        | Op::Atomic { addr, .. }
        | Op::LoadAcquire { addr, .. }
        | Op::StoreRelease { addr, .. } => Some(addr),
        _ => None,
    }
}

/// Whether the value of r10 goes anywhere but into an address.
fn escapes(op: &Op) -> bool {
    match *op {
        Op::Alu { src, .. } | Op::Store { src, .. } => src == Operand::Reg(Reg::R10),
        Op::MovSx { src, .. } | Op::Atomic { src, .. } | Op::StoreRelease { src, .. } => {
            src == Reg::R10
        }
        _ => false,
    }
}
