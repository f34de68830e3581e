//! Where paths meet: states that are kept to compare later ones with, when a
//! path may end because of them, and when a loop makes no progress. It knows
//! no instructions.

use uapi::prog::BPF_F_TEST_STATE_FREQ;

use super::Fail;
use super::iter::progressed;
use super::precision::Marks;
use super::prune::{self, covers};
use super::state::State;
use super::walk::Walk;

/// Comparisons in vain after which a checkpoint is dropped: one that is proven
/// (three more for each hit), and one whose paths are still open.
const PROVEN_MISSES: u32 = 16;
const OPEN_MISSES: u32 = 64;

/// The state in which some path arrived at a meeting point.
pub(super) struct Checkpoint {
    /// `None` once it was not worth keeping.
    pub(super) state: Option<State>,
    /// The checkpoint before it on its path.
    pub(super) parent: Option<usize>,
    /// Paths from here that are not yet walked to their end. While above 0
    /// nothing is proven for the state.
    open: u32,
    hits: u32,
    misses: u32,
    pub(super) marks: Marks,
}

/// What comparing the state in hand with one checkpoint said.
enum Met {
    Proven,
    /// Not alike, and worth keeping or not.
    Missed {
        keep: bool,
    },
}

impl Walk<'_> {
    /// One path more waits below the last checkpoint.
    pub(super) fn open_path(&mut self) {
        if let Some(parent) = self.parent {
            self.checkpoints[parent].open += 1;
        }
    }

    /// The path in hand ended: whoever waited only for it is proven.
    pub(super) fn close_path(&mut self) {
        let mut up = self.parent;
        while let Some(index) = up {
            let checkpoint = &mut self.checkpoints[index];
            checkpoint.open -= 1;
            if checkpoint.open > 0 {
                break;
            }
            up = checkpoint.parent;
        }
    }

    /// Whether every continuation from here was already proven safe; if not,
    /// may leave a checkpoint.
    pub(super) fn is_known(&mut self) -> Result<bool, Fail> {
        let at = self.at;
        let list = std::mem::take(&mut self.known[at]);
        let mut keep = Vec::with_capacity(list.len() + 1);
        let (mut found, mut looping) = (false, false);
        for (position, &index) in list.iter().enumerate() {
            if self.checkpoints[index].state.is_none() {
                continue;
            }
            looping |= self.checkpoints[index].open > 0;
            match self.meet(index)? {
                Met::Proven => {
                    keep.extend_from_slice(&list[position..]);
                    found = true;
                    break;
                }
                Met::Missed { keep: true } => keep.push(index),
                Met::Missed { keep: false } => {
                    self.checkpoints[index].state = None;
                    self.live_states -= 1;
                }
            }
        }
        self.known[at] = keep;
        if !found && self.is_worth_keeping(looping) {
            self.add_checkpoint();
        }
        Ok(found)
    }

    /// Compares the state in hand with a checkpoint's.
    fn meet(&mut self, index: usize) -> Result<Met, Fail> {
        let (cfg, at) = (self.cfg, self.at);
        let checkpoint = &mut self.checkpoints[index];
        let Some(state) = &checkpoint.state else {
            return Ok(Met::Missed { keep: false });
        };
        if checkpoint.open > 0 {
            // An ancestor of this path: coming back to it unchanged never ends.
            if state.may_goto_depth == self.state.may_goto_depth
                && !progressed(state, &self.state)
                && prune::same(cfg, at, state, &self.state)
            {
                let text = format!("infinite loop detected at insn {at}");
                return Err(Fail::einval(text).hint("give the loop a bound"));
            }
            checkpoint.misses += 1;
            let keep = checkpoint.misses <= OPEN_MISSES;
            return Ok(Met::Missed { keep });
        }
        let Some(needed) = covers(cfg, at, state, &checkpoint.marks, &self.state) else {
            checkpoint.misses += 1;
            let keep = checkpoint.misses <= 3 * checkpoint.hits + PROVEN_MISSES;
            return Ok(Met::Missed { keep });
        };
        checkpoint.hits += 1;
        // What was needed below the checkpoint is needed of this path, too.
        for frame in 0..self.state.frames.len() {
            let slots = self.checkpoints[index].marks.read[frame];
            self.mark_read(frame, slots);
        }
        self.need_precise(needed);
        Ok(Met::Proven)
    }

    fn is_worth_keeping(&self, looping: bool) -> bool {
        let jumps = self.jumps - self.jumps_at_checkpoint;
        let insns = self.counts.insns - self.insns_at_checkpoint;
        if !self.prunes {
            false
        } else if self.spec.prog_flags & BPF_F_TEST_STATE_FREQ != 0 {
            true
        } else if looping {
            // Inside a loop that makes progress, states rarely meet: keep fewer.
            jumps >= 20 || insns >= 100
        } else {
            jumps >= 2 && insns >= 8
        }
    }

    fn add_checkpoint(&mut self) {
        self.insns_at_checkpoint = self.counts.insns;
        self.jumps_at_checkpoint = self.jumps;
        let index = self.checkpoints.len();
        let (sources, written) = self.state.restart_sources();
        let read = vec![0; written.len()];
        self.checkpoints.push(Checkpoint {
            state: Some(self.state.clone()),
            parent: self.parent,
            open: 1,
            hits: 0,
            misses: 0,
            marks: Marks {
                sources,
                written,
                read,
                ..Marks::default()
            },
        });
        self.parent = Some(index);
        self.known[self.at].push(index);
        self.live_states += 1;
        let counts = &mut self.counts;
        counts.total_states += 1;
        counts.peak_states = counts.peak_states.max(self.live_states);
        counts.max_states_per_insn = counts.max_states_per_insn.max(self.known[self.at].len());
    }
}
