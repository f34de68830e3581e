//! The walk over all paths of a program: one instruction after another, each
//! branch remembered for later, each meeting point compared with what was
//! proven there before (`checkpoint`). What an instruction does is in `step`
//! and below.

use std::collections::{BTreeSet, HashMap};

use uapi::insn::*;
use uapi::{Errno, Insn};

use super::cfg::Cfg;
use super::checkpoint::Checkpoint;
use super::log::Trace;
use super::state::{Kind, Reg, State};
use super::{Env, Fail, MapInfo};
use crate::program::{Facts, ProgramSpec};

/// Branches that wait, at most (kernel: `BPF_COMPLEXITY_LIMIT_JMP_SEQ`).
const MAX_PENDING: usize = 8192;

/// A path still to be walked.
struct Pending {
    state: State,
    at: usize,
    parent: Option<usize>,
    /// The branch it goes on from, and where the log stood there.
    from: usize,
    log: usize,
}

/// What the log's last line reports.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) insns: u32,
    pub(super) max_states_per_insn: usize,
    pub(super) total_states: usize,
    pub(super) peak_states: usize,
}

pub(super) struct Walk<'a> {
    pub(super) spec: &'a ProgramSpec,
    pub(super) env: &'a dyn Env,
    pub(super) cfg: &'a Cfg,
    pub(super) trace: Trace<'a>,
    /// Instruction in hand.
    pub(super) at: usize,
    pub(super) state: State,
    pub(super) parent: Option<usize>,
    pending: Vec<Pending>,
    pub(super) checkpoints: Vec<Checkpoint>,
    /// Checkpoints by instruction and by the call of the function in hand:
    /// states of other calls are never alike.
    pub(super) known: HashMap<(usize, usize), Vec<usize>>,
    last_id: u32,
    pub(super) counts: Counts,
    pub(super) live_states: usize,
    pub(super) insns_at_checkpoint: u32,
    pub(super) jumps: u32,
    pub(super) jumps_at_checkpoint: u32,
    /// False to walk every path to its end, which tests compare with.
    pub(super) prunes: bool,
    /// Instructions to process at most.
    pub(super) limit: u32,
    visited: Vec<bool>,
    /// Per memory instruction: see [`Walk::note_access`].
    through: Vec<Option<&'static str>>,
    // What becomes facts.
    pub(super) frame_bytes: Vec<u32>,
    pub(super) calls: BTreeSet<(usize, usize)>,
    /// Global functions that were called: still to be walked, and walked.
    pub(super) unproven: BTreeSet<usize>,
    pub(super) proven: BTreeSet<usize>,
    /// Subprograms that helpers called back.
    pub(super) callbacks: BTreeSet<usize>,
    pub(super) tail_calls: Vec<bool>,
    pub(super) ctx_words: u64,
    pub(super) ctx_bytes: u32,
    pub(super) helpers: BTreeSet<u32>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        spec: &'a ProgramSpec,
        env: &'a dyn Env,
        cfg: &'a Cfg,
        trace: Trace<'a>,
    ) -> Walk<'a> {
        let count = spec.insns.len();
        Walk {
            spec,
            env,
            cfg,
            trace,
            at: 0,
            state: State::entry(),
            parent: None,
            pending: Vec::new(),
            checkpoints: Vec::new(),
            known: HashMap::new(),
            last_id: 0,
            counts: Counts::default(),
            live_states: 0,
            insns_at_checkpoint: 0,
            jumps: 0,
            jumps_at_checkpoint: 0,
            prunes: true,
            limit: BPF_COMPLEXITY_LIMIT_INSNS,
            visited: vec![false; count],
            through: vec![None; count],
            frame_bytes: vec![0; cfg.subprograms.len()],
            calls: BTreeSet::new(),
            unproven: BTreeSet::new(),
            proven: BTreeSet::new(),
            callbacks: BTreeSet::new(),
            tail_calls: vec![false; cfg.subprograms.len()],
            ctx_words: 0,
            ctx_bytes: 0,
            helpers: BTreeSet::new(),
        }
    }

    /// Walks every path to its end.
    pub(super) fn run(&mut self) -> Result<(), Fail> {
        loop {
            if self.counts.insns >= self.limit {
                let text = format!(
                    "BPF program is too large. Processed {} insn",
                    self.counts.insns + 1
                );
                return Err(Fail::new(Errno::E2BIG, text));
            }
            self.counts.insns += 1;
            let next = if self.cfg.prune_point[self.at] && self.is_known()? {
                self.trace.pruned(self.at);
                None
            } else {
                self.visited[self.at] = true;
                self.trace_insn();
                self.step()?
            };
            match next {
                Some(at) => self.at = at,
                None => {
                    self.close_path();
                    let Some(next) = self.pending.pop() else {
                        return Ok(());
                    };
                    self.state = next.state;
                    self.at = next.at;
                    self.parent = next.parent;
                    self.trace.new_path(next.from, next.log);
                }
            }
        }
    }

    pub(super) fn insn(&self) -> Insn {
        self.spec.insns[self.at]
    }

    pub(super) fn map(&self, index: u32) -> &'a MapInfo {
        &self.cfg.maps[index as usize]
    }

    pub(super) fn fresh_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// Remembers a path from here with another state.
    pub(super) fn push(&mut self, at: usize, state: State) -> Result<(), Fail> {
        if self.pending.len() >= MAX_PENDING {
            let text = format!("The sequence of {MAX_PENDING} jumps is too complex.");
            return Err(Fail::new(Errno::E2BIG, text));
        }
        self.open_path();
        self.pending.push(Pending {
            state,
            at,
            parent: self.parent,
            from: self.at,
            log: self.trace.position(),
        });
        Ok(())
    }

    /// The kernel rewrites accesses to contexts and sockets, so one instruction
    /// may not reach one of them on one path and other memory on another; we
    /// keep its rule.
    pub(super) fn note_access(&mut self, kind: Kind) -> Result<(), Fail> {
        let rewritten = match kind {
            Kind::Ctx | Kind::Sock { .. } | Kind::Object { .. } | Kind::UntrustedMem => kind.name(),
            _ => "",
        };
        match self.through[self.at].replace(rewritten) {
            Some(before) if before != rewritten => Err(Fail::einval(
                "same insn cannot be used with different pointers",
            )),
            _ => Ok(()),
        }
    }

    /// A register that an instruction reads.
    pub(super) fn read(&self, number: u8) -> Result<Reg, Fail> {
        let reg = *self.state.reg(number);
        if reg.kind == Kind::NotInit {
            return Err(Fail::eacces(format!("R{number} !read_ok"))
                .hint("write the register on every path before it is read; calls clear r1 to r5"));
        }
        Ok(reg)
    }

    /// Gives a register a new content.
    pub(super) fn write(&mut self, number: u8, reg: Reg) -> Result<(), Fail> {
        if number == 10 {
            return Err(Fail::eacces("frame pointer is read only"));
        }
        self.state.set(number, reg);
        Ok(())
    }

    pub(super) fn facts(&self, stack_bytes: u32) -> Facts {
        let insns = &self.spec.insns;
        let mut unreachable = Vec::new();
        let mut at = 0;
        while at < insns.len() {
            let slots = if super::cfg::is_wide(insns[at]) { 2 } else { 1 };
            if !self.visited[at] {
                unreachable.extend(at as u32..(at + slots) as u32);
            }
            at += slots;
        }
        let mut maps: Vec<u32> = self.cfg.maps[..self.cfg.named_maps]
            .iter()
            .map(|m| m.id)
            .collect();
        maps.sort_unstable();
        Facts {
            ctx_words_read: self.ctx_words,
            ctx_bytes: self.ctx_bytes,
            helpers: self.helpers.iter().copied().collect(),
            maps,
            stack_bytes,
            frame_bytes: self.frame_bytes.clone(),
            subprograms: self.cfg.subprograms.clone(),
            unreachable,
            insns_processed: self.counts.insns,
        }
    }
}
