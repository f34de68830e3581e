//! Loops that end because something runs out, not because a path decides so:
//! `may_goto`, iterators, callbacks that a helper calls. Their bodies are
//! walked until a state lies within an earlier one of the same path; then the
//! path ends there, for its continuation is the earlier one's. It knows no
//! helper and no iterator, only how often each gave another turn.
//!
//! # Why such a loop ends
//!
//! A path may end at a checkpoint that is still open only at an instruction
//! that takes a turn from a budget ([`super::cfg::LoopPoint`]), and only if
//! both states hold the same budgets (the same calls of functions, the same
//! iterators: not new ones in their place), and one of them was used. Of an
//! endless run, take the outermost checkpoint that it comes back to again and
//! again: each time something was taken from budgets that were not renewed
//! meanwhile, and all of them are finite.
//!
//! # What others have to do
//!
//! - `may_goto`: the path that jumps goes on; the other one, pushed, has
//!   [`State::turn`] called.
//! - An iterator's next: the path that found the end goes on; the other one,
//!   pushed, counts up in its slot, after [`Walk::widen`].
//! - A helper that calls back: the path without another call goes on, after
//!   [`State::end_calls`]; the other one, pushed, is in the callback's frame.
//!   That frame's exit goes to the call instruction again, after
//!   [`State::turn_calls`] and [`Walk::widen`] with that instruction.

use super::state::{Frame, Kind, Reg, Slot, State};
use super::walk::Walk;

/// How often something gave another turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Budget {
    /// Which one: never used twice.
    pub(super) id: u32,
    pub(super) turns: u32,
}

impl State {
    /// `may_goto` fell through.
    pub(super) fn turn(&mut self) {
        self.frame().budget.turns += 1;
    }

    /// The helper at the call instruction in hand called back once more.
    pub(super) fn turn_calls(&mut self) {
        if let Some((_, calls)) = &mut self.frame().calls {
            calls.turns += 1;
        }
    }

    /// The helper at the call instruction in hand returned.
    pub(super) fn end_calls(&mut self) {
        self.frame().calls = None;
    }

    fn budgets(&self) -> impl Iterator<Item = Budget> {
        self.frames.iter().flat_map(|frame| {
            let calls = frame.calls.map(|(_, calls)| calls);
            let iterators = frame.stack.iter().filter_map(iterator);
            [frame.budget].into_iter().chain(calls).chain(iterators)
        })
    }

    /// Whether every budget is the same as in `old`, or has been used since.
    pub(super) fn keeps_budgets(&self, old: &State) -> bool {
        let pairs = old.budgets().zip(self.budgets());
        self.budgets().count() == old.budgets().count()
            && pairs
                .into_iter()
                .all(|(o, n)| o.id == n.id && o.turns <= n.turns)
    }

    /// Whether something that was there in `old` gave a turn since.
    pub(super) fn took_a_turn(&self, old: &State) -> bool {
        let used = |n: Budget| old.budgets().any(|o| o.id == n.id && o.turns != n.turns);
        self.budgets().any(used)
    }

    /// Whether a loop from `old` to here took a turn and renewed no budget.
    pub(super) fn has_progressed(&self, old: &State) -> bool {
        let mut pairs = old.budgets().zip(self.budgets());
        self.keeps_budgets(old) && pairs.any(|(o, n)| o.turns < n.turns)
    }
}

impl Walk<'_> {
    /// Makes a state that takes another turn of the loop at instruction `at`
    /// more general: numbers that change from turn to turn and that nothing
    /// below the last turn needed become unknown. Knowing less is always
    /// sound; it is what lets the next turn's state lie within this one.
    pub(super) fn widen(&self, at: usize, state: &mut State) {
        let just_made = self.parent.filter(|_| at == self.at);
        let site = state.frame().call_site;
        let known = self.known.get(&(at, site)).into_iter().flatten().rev();
        let mut open = known.filter(|&&index| Some(index) != just_made);
        let before = open.find_map(|&index| {
            let checkpoint = &self.checkpoints[index];
            let before = checkpoint.state.as_ref().filter(|_| checkpoint.is_open())?;
            let alike = before.frames.len() == state.frames.len()
                && before.frames.iter().zip(&state.frames).all(same_call);
            alike.then_some((before, &checkpoint.marks))
        });
        let Some((before, marks)) = before else {
            return;
        };
        let forget = |old: &Reg, new: &mut Reg| {
            let numbers = old.kind == Kind::Scalar && new.kind == Kind::Scalar;
            if numbers && old.val != new.val && !marks.precise.meets(old.from) {
                *new = Reg::UNKNOWN;
            }
        };
        for (old, new) in before.frames.iter().zip(&mut state.frames) {
            for (old, new) in old.regs.iter().zip(&mut new.regs) {
                forget(old, new);
            }
            for (old, new) in old.stack.iter().zip(new.stack.iter_mut()) {
                if old.spilled() == 8 && new.spilled() == 8 {
                    forget(&old.reg, &mut new.reg);
                }
            }
        }
    }
}

/// An iterator, by its first slot.
fn iterator(slot: &Slot) -> Option<Budget> {
    let first = matches!(slot.reg.kind, Kind::Iter { .. }) && slot.reg.owner != 0;
    first.then_some(Budget {
        id: slot.reg.owner,
        turns: slot.reg.delta as u32,
    })
}

fn same_call((old, new): (&Frame, &Frame)) -> bool {
    old.call_site == new.call_site && old.subprogram == new.subprogram
}
