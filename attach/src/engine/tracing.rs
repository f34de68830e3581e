//! System calls: what is asked of the engine, and the text brought in line.

use std::sync::Arc;

use super::writing::write_all_plans;
use super::{Engine, STATE, State};
use crate::arch::plan::Plan;
use crate::error::Refusal;
use crate::libraries;
use crate::mappings;
use crate::site::ProbeList;
use crate::syscalls::hit;
use crate::syscalls::sites::{Lacking, Work};
use crate::syscalls::{Memo, SyscallProbe, SyscallSite, Text};
use crate::text::{self, Change, Outcome};

/// What came of [`Engine::trace_syscalls`].
#[derive(Debug, Default)]
pub struct Traced {
    /// An instruction is hooked that was not before: a thread may be right
    /// before it, behind the hook.
    pub has_hooked: bool,
    /// What was not hooked for want of a module: to be given again with one.
    pub lacking: Vec<Arc<Text>>,
}

impl Engine {
    /// From now on exactly these probes run at system calls, made by whatever
    /// instruction of these texts or of others that were given before.
    /// [`Engine::syscall_sites`] tells which could not be hooked.
    pub fn trace_syscalls(&self, texts: &[Arc<Text>], probes: &[SyscallProbe]) -> Traced {
        libraries::held(|| {
            let mut state = STATE.lock();
            if state.syscalls.publish(probes) {
                // What the old lists lead to may go when the engine is settled.
                state.replaced.push(ProbeList::placeholder());
            }
            state.hook_syscalls(texts, self.can_step)
        })
    }

    /// What was found out about a text of a file, for the next process that
    /// maps that; nothing where its memo told all.
    pub fn syscall_memo(&self, text: &Arc<Text>) -> Option<Memo> {
        STATE.lock().syscalls.memo(text)
    }

    /// How many places of the texts may be system call instructions that are
    /// not hooked, for all that can be told.
    pub fn syscall_doubts(&self) -> usize {
        STATE.lock().syscalls.doubts()
    }

    /// How many instructions of these texts make system calls and are of no
    /// kind that is hooked: `int 0x80`.
    pub fn other_syscalls(&self) -> usize {
        STATE.lock().syscalls.others()
    }

    /// The `syscall` instructions that take part in what is traced.
    pub fn syscall_sites(&self) -> Vec<SyscallSite> {
        STATE.lock().syscalls.list()
    }

    /// Runs the enter probes of a system call that the caller is about to make
    /// in the program's place.
    pub fn syscall_made(nr: i64, argument: u64) {
        hit::made(nr, argument);
    }

    /// Runs the exit probes of a system call that was not made here, but that
    /// the calling thread has returned from: execve(2) in a new program.
    pub fn syscall_returned(nr: i64, result: i64) {
        hit::returned(nr, result);
    }
}

impl State {
    /// Brings the text in line with the probes at system calls.
    fn hook_syscalls(&mut self, texts: &[Arc<Text>], can_step: bool) -> Traced {
        self.forget_moved();
        let (plans, lacking) = self.plan_syscalls(texts, can_step);
        for addr in write_all_plans(&plans, self.arena.as_ref()).into_keys() {
            self.syscalls.failed(addr, Refusal::NoMemory);
        }
        let has_hooked = self.change_syscalls(true, can_step);
        self.change_syscalls(false, can_step);
        Traced {
            has_hooked,
            lacking,
        }
    }

    /// Plans for new instructions, and texts for which that takes a module.
    fn plan_syscalls(
        &mut self,
        texts: &[Arc<Text>],
        can_step: bool,
    ) -> (Vec<(u64, Plan)>, Vec<Arc<Text>>) {
        let mappings = mappings::own();
        let known = mappings.as_deref().unwrap_or_default();
        let Work {
            mut new,
            mut lacking,
        } = self.syscalls.work(texts, known);
        let arena = self.arena.get_or_insert_default();
        if !new.is_empty()
            && let Some(mappings) = mappings
        {
            arena.survey(&mappings);
            // A library may have been closed before this call.
            new.retain(|(_, found, _)| mappings::holding(&mappings, found.addr).is_some());
        }
        let mut plans = Vec::new();
        for (text, found, recipe) in new {
            let plan = self
                .syscalls
                .plan(&text, &found, recipe, arena, &mut self.owned, can_step);
            match plan {
                Ok(plan) => plans.extend(plan.map(|plan| (found.addr, plan))),
                Err(Lacking) if lacking.iter().any(|known| Arc::ptr_eq(known, &text)) => {}
                Err(Lacking) => lacking.push(text),
            }
        }
        (plans, lacking)
    }

    /// Changes the instructions that are due to be hooked, or not any more.
    /// Whether there were any.
    fn change_syscalls(&mut self, is_patched: bool, can_step: bool) -> bool {
        let due = self.syscalls.due(is_patched);
        let changes: Vec<Change> = due.iter().map(|(_, change)| *change).collect();
        // SAFETY: we hold the lock. The planner proved each change to be
        // one instruction's; its trampoline is written.
        let outcomes = unsafe { text::change(&changes, can_step) };
        let mut has_changed = false;
        for ((addr, _), outcome) in due.iter().zip(outcomes) {
            match outcome {
                Outcome::Done => {
                    has_changed = true;
                    self.syscalls.changed(*addr, is_patched);
                }
                _ if is_patched => self.syscalls.failed(*addr, Refusal::Patched),
                // What someone else has changed stays, and so does our
                // trampoline.
                _ => {}
            }
        }
        has_changed
    }
}
