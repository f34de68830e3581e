//! Which code trampolines call: the thunk that fits the probes, or a block made
//! for them.

use std::collections::BTreeSet;

use super::State;
use crate::arch::plan::Plan;
use crate::text::{self, Change, Outcome};

impl State {
    /// Plans whose trampolines call the thunks that fit the published lists, or
    /// jump to blocks, which are written with them.
    pub(super) fn with_thunks(&mut self, mut plans: Vec<(u64, Plan)>) -> Vec<(u64, Plan)> {
        for (addr, plan) in &mut plans {
            let Some(record) = self.sites.get_mut(addr) else {
                continue;
            };
            let word = code_of(plan).and_then(|code| code.first_chunk_mut());
            if let Some(word) = word {
                record.thunk = record.best_thunk();
                *word = record.thunk.to_le_bytes();
            }
            let arena = self.arena.get_or_insert_default();
            let block = record.make_block(arena);
            if let Some(code) = code_of(plan) {
                record.put_head(code);
            }
            plan.writes.splice(0..0, block);
        }
        plans
    }

    /// Lets trampolines call the thunks that fit, or jump to blocks. One that
    /// cannot be changed still runs what it should: a thunk leaves to the
    /// general one what it does not do itself, and a block to a thunk.
    pub(super) fn choose_thunks(&mut self, sites: &BTreeSet<u64>, can_step: bool) {
        self.arm_blocks(sites);
        let mut due: Vec<(u64, Change, bool)> = Vec::new();
        for addr in sites {
            let record = self.sites.get(addr).filter(|record| !record.is_idle());
            let Some(record) = record else { continue };
            let (now, then) = (record.thunk, record.best_thunk());
            if now != then && record.trampoline % 8 == 0 {
                let change =
                    Change::new(record.trampoline, &now.to_le_bytes(), &then.to_le_bytes());
                due.push((*addr, change, false));
            }
            due.extend(record.new_head().map(|change| (*addr, change, true)));
        }
        if due.is_empty() {
            return;
        }
        let changes: Vec<Change> = due.iter().map(|(_, change, _)| *change).collect();
        // SAFETY: we hold the lock. Aligned words: an address, which threads load
        // at once, or a whole instruction, of which either does; both thunks do
        // for either list, as does any block, which asks whether it may run.
        let outcomes = unsafe { text::change(&changes, can_step) };
        for ((addr, change, is_head), outcome) in due.iter().zip(outcomes) {
            if let (Outcome::Done, Some(record)) = (outcome, self.sites.get_mut(addr)) {
                match is_head {
                    true => record.blocks.head = change.to,
                    false => record.thunk = record.best_thunk(),
                }
            }
        }
    }
}

/// The trampoline.
fn code_of(plan: &mut Plan) -> Option<&mut [u8]> {
    plan.writes.last_mut().map(|(_, code)| &mut code[..])
}
