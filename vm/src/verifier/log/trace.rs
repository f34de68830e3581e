//! Prints the walk: each instruction, what it changed, where a path goes on.
//! It knows no rules and changes nothing of the walk.

use std::time::Instant;

use uapi::Insn;
use uapi::insn::{BPF_LDX, BPF_ST, BPF_STX};

use super::super::Fail;
use super::super::cfg::registers;
use super::super::state::{Kind, SLOT, SLOTS, Slot, Stack};
use super::super::walk::{Counts, Walk};
use super::state::{Selection, frame};
use super::{LEVEL1, LEVEL2, Log, STATS, explain};
use crate::listing::Listed;
use crate::program::{LineInfo, ProgramSpec};

/// Column at which changed registers begin, and the step of longer lines
/// (kernel: `BPF_LOG_ALIGNMENT`, `BPF_LOG_MIN_ALIGNMENT`).
const COLUMN: usize = 40;
const STEP: usize = 8;

/// What an instruction found.
struct Before {
    at: usize,
    depth: usize,
    stack: Stack,
    /// The stack slot it reads or writes.
    slot: Option<usize>,
}

/// The log of one verification, if somebody wants one.
pub(in super::super) struct Trace<'a> {
    log: Option<&'a mut Log>,
    started: Instant,
    /// The instruction that ran last on this path, as it found its frame.
    before: Option<Before>,
    /// Stack bytes of each subprogram, for the statistics.
    depths: Vec<u32>,
    /// Where a new path comes from, until its state was printed.
    from: Option<usize>,
    /// End and length of the instruction printed last.
    line: (usize, usize),
    /// The source line printed last.
    source: Option<usize>,
}

impl<'a> Trace<'a> {
    pub(in super::super) fn new(log: Option<&'a mut Log>) -> Trace<'a> {
        Trace {
            log,
            started: Instant::now(),
            before: None,
            depths: Vec::new(),
            from: None,
            line: (0, 0),
            source: None,
        }
    }

    /// The log when it wants one of these levels.
    fn at(&mut self, levels: u32) -> Option<&mut Log> {
        self.log.as_deref_mut().filter(|log| log.wants(levels))
    }

    fn wants(&self, levels: u32) -> bool {
        self.log.as_ref().is_some_and(|log| log.wants(levels))
    }

    /// Adds text at level 1 and 2.
    pub(in super::super) fn say(&mut self, text: &str) {
        if let Some(log) = self.at(LEVEL1 | LEVEL2) {
            log.push(text);
        }
    }

    /// Where the log stands, for [`Trace::new_path`].
    pub(in super::super) fn position(&self) -> usize {
        self.log.as_ref().map_or(0, |log| log.end)
    }

    /// A path goes on that branched off at `from`: level 1 forgets the last one.
    pub(in super::super) fn new_path(&mut self, from: usize, position: usize) {
        self.restart();
        self.from = Some(from);
        if !self.wants(LEVEL2)
            && let Some(log) = self.at(LEVEL1)
        {
            log.rewind(position);
        }
    }

    /// Another function is walked.
    pub(in super::super) fn restart(&mut self) {
        self.from = None;
        self.before = None;
        self.line = (0, 0);
        self.source = None;
    }

    /// The path in hand is covered by what was proven before.
    pub(in super::super) fn pruned(&mut self, at: usize) {
        let text = match self.from.take() {
            Some(from) => format!("\nfrom {from} to {at}: safe\n"),
            None => format!("{at}: safe\n"),
        };
        self.say(&text);
    }

    /// The instruction that was refused, in the kernel's words and in ours.
    /// `found` are the registers it uses.
    pub(in super::super) fn refused(
        &mut self,
        spec: &ProgramSpec,
        at: usize,
        fail: &Fail,
        found: Option<&str>,
    ) {
        if !self.wants(LEVEL1 | LEVEL2) {
            // Statistics come with the kernel's words, and no more.
            if let Some(log) = self.at(STATS) {
                log.push(&format!("{}\n", fail.text));
            }
            return;
        }
        let insn = (at < spec.insns.len()).then(|| listed(&spec.insns, at));
        if let Some(insn) = insn.as_ref().filter(|_| found.is_none()) {
            // No walk has printed it.
            self.say(&format!("{at}: {insn}\n"));
        }
        self.say(&format!("{}\n", fail.text));
        let text = explain::explain(spec, at, insn.as_deref(), fail, found);
        self.say(&text);
    }

    /// Nothing was refused: level 1 has nothing to show.
    pub(in super::super) fn forget_paths(&mut self) {
        if !self.wants(LEVEL2)
            && let Some(log) = self.at(LEVEL1)
        {
            log.rewind(0);
        }
    }

    /// The last lines of a verification.
    pub(in super::super) fn end(&mut self, counts: &Counts) {
        let micros = self.started.elapsed().as_micros();
        let depths: Vec<String> = self.depths.iter().map(u32::to_string).collect();
        let depths = depths.join("+");
        if let Some(log) = self.at(STATS) {
            log.push(&format!(
                "verification time {micros} usec\nstack depth {depths}\n"
            ));
        }
        if let Some(log) = self.at(LEVEL1 | LEVEL2 | STATS) {
            log.push(&format!(
                "processed {} insns (limit {}) max_states_per_insn {} total_states {} peak_states {} mark_read 0\n",
                counts.insns,
                uapi::insn::BPF_COMPLEXITY_LIMIT_INSNS,
                counts.max_states_per_insn,
                counts.total_states,
                counts.peak_states
            ));
        }
    }
}

/// An instruction of a program as the log prints it.
pub(in super::super) fn listed(insns: &[Insn], at: usize) -> String {
    let (insn, next) = (insns[at], insns.get(at + 1).copied());
    Listed { insn, next }.to_string()
}

impl Walk<'_> {
    /// The instruction in hand is about to be done.
    pub(in super::super) fn trace_insn(&mut self) {
        if !self.trace.wants(LEVEL1 | LEVEL2) {
            return;
        }
        let depth = self.state.frames.len() - 1;
        if let Some(from) = self.trace.from.take() {
            if self.trace.wants(LEVEL2) {
                let state = frame(self, &self.state, depth, &Selection::ALL);
                self.trace
                    .say(&format!("\nfrom {from} to {}:{state}\n", self.at));
            }
            if self.trace.before.is_none() {
                self.trace_effect(depth);
            }
        } else {
            self.trace_effect(depth);
        }
        self.trace_source();
        let text = format!("{}: {}\n", self.at, listed(&self.spec.insns, self.at));
        self.trace.say(&text);
        self.trace.line = (self.trace.position(), text.len());
        self.trace.before = Some(Before {
            at: self.at,
            depth,
            stack: self.state.frames[depth].stack.clone(),
            slot: self.slot_in_use(depth),
        });
    }

    /// What the instruction before changed, behind it if nothing else was printed.
    fn trace_effect(&mut self, depth: usize) {
        let what = match &self.trace.before {
            Some(before) if before.depth == depth => {
                let (reads, writes) = registers(self.spec.insns[before.at], self.env);
                let now = &self.state.frames[depth].stack;
                let slot = before.slot.map_or(0, |slot| 1 << slot);
                Selection {
                    regs: reads | writes,
                    slots: changed(&before.stack, now) | slot,
                }
            }
            _ => Selection::ALL,
        };
        let state = frame(self, &self.state, depth, &what);
        if state.is_empty() {
            return;
        }
        let (end, length) = self.trace.line;
        let behind = end != 0 && end == self.trace.position();
        let at = self.at;
        let Some(log) = self.trace.at(LEVEL1 | LEVEL2) else {
            return;
        };
        if behind {
            log.rewind(end - 1);
            log.push(&format!("{:>1$};{state}\n", "", padding(length)));
        } else {
            log.push(&format!("{at}:{state}\n"));
        }
    }

    /// The slot of the running frame that a load or store goes to.
    fn slot_in_use(&self, depth: usize) -> Option<usize> {
        let insn = self.insn();
        let base = match insn.class() {
            BPF_LDX => insn.src(),
            BPF_ST | BPF_STX => insn.dst(),
            _ => return None,
        };
        let reg = self.state.reg(base);
        let here = matches!(reg.kind, Kind::Stack { frame } if usize::from(frame) == depth);
        let at = reg.val.as_const().filter(|_| here)? as i64 + i64::from(insn.off);
        let slot = usize::try_from((-1 - at) / i64::from(SLOT)).ok()?;
        (at < 0 && slot < SLOTS).then_some(slot)
    }

    /// The source line of the instruction in hand, once per line.
    fn trace_source(&mut self) {
        let lines = &self.spec.info.lines;
        let Some(index) = line_of(lines, self.at) else {
            return;
        };
        let (line, last) = (&lines[index], self.trace.source.map(|n| &lines[n]));
        if last.is_some_and(|last| (last.line, &last.file) == (line.line, &line.file)) {
            return;
        }
        let file = line.file.rsplit('/').next().unwrap_or_default();
        let text = format!("; {} @ {file}:{}\n", line.text.trim_start(), line.line);
        self.trace.source = Some(index);
        self.trace.say(&text);
    }

    /// The registers that the instruction in hand uses, for who reads a refusal.
    pub(in super::super) fn registers_in_use(&self) -> String {
        let Some(&insn) = self.spec.insns.get(self.at) else {
            return String::new();
        };
        let depth = self.state.frames.len() - 1;
        let (reads, _) = registers(insn, self.env);
        let what = Selection {
            regs: reads,
            slots: 0,
        };
        frame(self, &self.state, depth, &what)
    }

    /// The subprograms are known.
    pub(in super::super) fn trace_start(&mut self) {
        if self.trace.wants(LEVEL2) {
            for (number, start) in self.cfg.subprograms.iter().enumerate() {
                self.trace.say(&format!("func#{number} @{start}\n"));
            }
        }
    }

    /// The walk is done, and frames are what they were found to use.
    pub(in super::super) fn trace_depths(&mut self) {
        if self.trace.wants(STATS) {
            self.trace.depths = self.frame_bytes.clone();
        }
    }

    /// The log's last lines.
    pub(in super::super) fn trace_end(&mut self) {
        self.trace.end(&self.counts);
    }

    /// What the log tells of a pointer besides its kind.
    pub(super) fn describe(&self, kind: Kind) -> Vec<String> {
        match kind {
            Kind::MapValue { map, .. } | Kind::Map { map } | Kind::MapKey { map } => {
                let map = self.map(map);
                vec![format!("ks={},vs={}", map.key_size, map.value_size)]
            }
            Kind::Record { size, .. } | Kind::Mem { size, .. } => vec![format!("sz={size}")],
            _ => Vec::new(),
        }
    }

    /// A subprogram was entered: the caller's last and the callee's first state.
    pub(in super::super) fn trace_call(&mut self) {
        self.trace_frames("caller:\n", "callee:\n");
    }

    fn trace_frames(&mut self, outer: &str, inner: &str) {
        if !self.trace.wants(LEVEL1 | LEVEL2) {
            return;
        }
        let depth = self.state.frames.len() - 1;
        let above = frame(self, &self.state, depth - 1, &Selection::ALL);
        let below = frame(self, &self.state, depth, &Selection::ALL);
        self.trace.say(&format!("{outer}{above}\n{inner}{below}\n"));
    }

    /// A subprogram is about to be left with its result in `r0`.
    pub(in super::super) fn trace_return(&mut self) {
        if !self.trace.wants(LEVEL1 | LEVEL2) {
            return;
        }
        let depth = self.state.frames.len() - 1;
        let state = frame(self, &self.state, depth, &Selection::ALL);
        self.trace
            .say(&format!("returning from callee:\n{state}\n"));
    }

    /// A subprogram was left.
    pub(in super::super) fn trace_returned(&mut self, to: usize) {
        if !self.trace.wants(LEVEL1 | LEVEL2) {
            return;
        }
        let depth = self.state.frames.len() - 1;
        let state = frame(self, &self.state, depth, &Selection::ALL);
        self.trace.say(&format!("to caller at {to}:\n{state}\n"));
        self.trace.from = Some(self.at);
    }
}

/// Slots that differ between two stacks of a frame.
fn changed(before: &[Slot], after: &[Slot]) -> u64 {
    let slot = |stack: &[Slot], n: usize| stack.get(n).copied().unwrap_or(Slot::MISC);
    (0..before.len().max(after.len()))
        .filter(|&n| slot(before, n) != slot(after, n))
        .fold(0, |bits, n| bits | 1 << n)
}

/// Spaces between an instruction of so many bytes and what it changed.
fn padding(length: usize) -> usize {
    let column = (length + STEP / 2).max(COLUMN).next_multiple_of(STEP);
    column - length - 1
}

/// The line that covers an instruction; lines are in the order of instructions.
pub(super) fn line_of(lines: &[LineInfo], at: usize) -> Option<usize> {
    lines
        .partition_point(|line| line.insn as usize <= at)
        .checked_sub(1)
}
