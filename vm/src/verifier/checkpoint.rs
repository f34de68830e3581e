//! Where paths meet: states that are kept to compare later ones with, when a
//! path may end because of them, and when a loop makes no progress. It knows
//! no instructions.

use uapi::prog::BPF_F_TEST_STATE_FREQ;

use super::Fail;
use super::cfg::LoopPoint;
use super::precision::{BackEdge, Marks, Sources};
use super::progress::Budget;
use super::prune::{covers, same, within};
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
    /// Paths that ended here while it might still get marks.
    pub(super) back_edges: Vec<BackEdge>,
    /// The outermost checkpoint above that a path below ended at. While that
    /// may still get marks, so may this one.
    entry: Option<usize>,
}

impl Checkpoint {
    /// Whether paths from here are still to be walked: then it is on the path
    /// in hand, for the walk goes depth first.
    pub(super) fn is_open(&self) -> bool {
        self.open > 0
    }
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
        if self.cfg.loop_point[at] == LoopPoint::Callback {
            self.begin_calls();
        }
        let key = (at, self.state.frame().call_site);
        let list = self.known.remove(&key).unwrap_or_default();
        let mut keep = Vec::with_capacity(list.len() + 1);
        let (mut found, mut looping) = (false, false);
        for (position, &index) in list.iter().enumerate() {
            if self.checkpoints[index].state.is_none() {
                continue;
            }
            looping |= self.checkpoints[index].is_open();
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
        let alike = keep.len();
        if !keep.is_empty() {
            self.known.insert(key, keep);
        }
        if !found && self.is_worth_keeping(looping) {
            self.add_checkpoint();
        }
        // As the kernel, without the one that was just added.
        let counts = &mut self.counts;
        counts.max_states_per_insn = counts.max_states_per_insn.max(alike);
        Ok(found)
    }

    /// A budget for the turns of the helper that is called here.
    fn begin_calls(&mut self) {
        let at = self.at;
        if self.state.frame().calls.is_none_or(|calls| calls.0 != at) {
            let id = self.fresh_id();
            self.state.frame().calls = Some((at, Budget { id, turns: 0 }));
        }
    }

    /// Compares the state in hand with a checkpoint's.
    fn meet(&mut self, index: usize) -> Result<Met, Fail> {
        let (cfg, at) = (self.cfg, self.at);
        let is_final = self.is_final(index);
        let checkpoint = &self.checkpoints[index];
        let Some(state) = &checkpoint.state else {
            return Ok(Met::Missed { keep: false });
        };
        if is_final {
            if let Some(needed) = covers(cfg, at, state, &checkpoint.marks, &self.state) {
                self.take_marks(index, needed);
                return Ok(Met::Proven);
            }
        } else {
            let ends = if checkpoint.is_open() {
                // Coming back to an ancestor unchanged never ends.
                if same(cfg, at, state, &self.state) && !self.state.took_a_turn(state) {
                    let text = format!("infinite loop detected at insn {at}");
                    return Err(Fail::einval(text).hint("give the loop a bound"));
                }
                cfg.loop_point[at] != LoopPoint::No && self.state.has_progressed(state)
            } else {
                self.state.keeps_budgets(state)
            };
            if ends && let Some(scalars) = within(cfg, at, state, &self.state) {
                self.share_marks(index, scalars);
                self.wait_for(index);
                self.checkpoints[index].hits += 1;
                return Ok(Met::Proven);
            }
        }
        let checkpoint = &mut self.checkpoints[index];
        checkpoint.misses += 1;
        let patience = if is_final {
            3 * checkpoint.hits + PROVEN_MISSES
        } else {
            OPEN_MISSES
        };
        let keep = checkpoint.misses <= patience;
        Ok(Met::Missed { keep })
    }

    /// What was needed below a final checkpoint is needed of the path in hand.
    fn take_marks(&mut self, index: usize, scalars: Sources) {
        self.checkpoints[index].hits += 1;
        for frame in 0..self.state.frames.len() {
            let slots = self.checkpoints[index].marks.read[frame];
            self.mark_read(frame, slots);
        }
        self.need_precise(scalars);
    }

    /// Whether a checkpoint has all its marks.
    fn is_final(&mut self, index: usize) -> bool {
        let (mut settled, mut next) = (Vec::new(), Some(index));
        while let Some(index) = next {
            let checkpoint = &self.checkpoints[index];
            if checkpoint.is_open() {
                return false;
            }
            next = checkpoint.entry;
            settled.push(index);
        }
        for index in settled {
            self.checkpoints[index].entry = None;
            self.checkpoints[index].back_edges = Vec::new();
        }
        true
    }

    /// The path in hand ends at a checkpoint that is not final: nor is any
    /// above it until the open one is closed that this one waits for.
    fn wait_for(&mut self, index: usize) {
        let mut entry = index;
        while !self.checkpoints[entry].is_open()
            && let Some(next) = self.checkpoints[entry].entry
        {
            entry = next;
        }
        let mut up = self.parent;
        while let Some(index) = up
            && index > entry
        {
            let checkpoint = &mut self.checkpoints[index];
            if checkpoint.entry.is_some_and(|known| known <= entry) {
                break;
            }
            checkpoint.entry = Some(entry);
            up = checkpoint.parent;
        }
    }

    fn is_worth_keeping(&self, looping: bool) -> bool {
        let jumps = self.jumps - self.jumps_at_checkpoint;
        let insns = self.counts.insns - self.insns_at_checkpoint;
        if !self.prunes {
            false
        } else if self.spec.prog_flags & BPF_F_TEST_STATE_FREQ != 0
            || self.cfg.loop_point[self.at] != LoopPoint::No
        {
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
            back_edges: Vec::new(),
            entry: None,
        });
        self.parent = Some(index);
        let key = (self.at, self.state.frame().call_site);
        self.known.entry(key).or_default().push(index);
        self.live_states += 1;
        let counts = &mut self.counts;
        counts.total_states += 1;
        counts.peak_states = counts.peak_states.max(self.live_states);
    }
}
