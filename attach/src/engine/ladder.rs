//! Sites that need another site: where no jump fits at an address alone, its
//! neighbour's trampoline or bytes may help. It knows no instruction.
//!
//! A site may go on from the trampoline of the instruction before it, or have
//! a jump whose last bytes are those of the jump at the instruction behind it.
//! The neighbour is a site like any other; it stays patched, with or without
//! probes, as long as one that needs it is.

use std::collections::{BTreeMap, BTreeSet};

use super::record::flags_dead;
use super::writing::denied;
use super::{Record, State, refused};
use crate::arch::block::{self, Work};
use crate::arch::emit;
use crate::arch::inline::Inline;
use crate::arch::plan::{Body, Need, Plan, Planner, Spot};
use crate::breakpoints::{Breakpoints, table};
use crate::error::{AttachError, Refusal};
use crate::mappings;
use crate::module::Module;
use crate::probe::{Point, Probe, Tactic};
use crate::site::Site;
use crate::text::{self, Change, Outcome};

/// Longest row of sites of which each needs the next one.
const MOST_NEEDED: usize = 8;
/// Displaced instructions before an address that are looked at.
const LONGEST_LEAD: u64 = 64;

/// Where a batch's sites are planned.
pub(super) struct Batch<'a> {
    pub(super) module: &'a Module,
    pub(super) can_step: bool,
    /// Addresses that are asked for.
    pub(super) wanted: &'a BTreeSet<u64>,
    pub(super) plans: &'a mut Vec<(u64, Plan)>,
    /// What may run in the trampoline at this address, if that is planned now.
    pub(super) work: Option<(u64, Inline, usize)>,
}

impl Batch<'_> {
    /// What may run in a new trampoline for `addr`.
    fn work_at(&self, addr: u64) -> Option<(Inline, usize)> {
        let (at, inline, hits) = self.work.as_ref()?;
        (*at == addr).then(|| (inline.clone(), *hits))
    }
}

/// In which order points are planned.
pub(super) struct Order {
    pub(super) indices: Vec<usize>,
    pub(super) wanted: BTreeSet<u64>,
}

impl Order {
    /// What is jumped to first: the rest may go on from the trampolines of what
    /// is before it.
    pub(super) fn of(batch: &[(Point, Probe)]) -> Order {
        let follows = |(point, _): &(Point, Probe)| {
            let addr = point.addr as u64;
            point.module.is_inside_function(addr) && point.module.reached_from(addr).is_some()
        };
        let (behind, first): (Vec<usize>, Vec<usize>) =
            (0..batch.len()).partition(|index| batch.get(*index).is_some_and(follows));
        Order {
            indices: [first, behind].concat(),
            wanted: batch.iter().map(|(point, _)| point.addr as u64).collect(),
        }
    }
}

impl State {
    /// Sees to it that there is a site at `addr`, planned if it is new.
    pub(super) fn site_at(&mut self, addr: u64, batch: &mut Batch<'_>) -> Result<(), Refusal> {
        // One look at the process's mappings per batch.
        if !self.sites.contains_key(&addr) && batch.plans.is_empty() {
            let mappings = mappings::own().ok_or(Refusal::NoMemory)?;
            self.arena.get_or_insert_default().survey(&mappings);
        }
        let is_unsafe = |record: &Record| record.tactic == Tactic::Breakpoint && !record.is_patched;
        if self.breakpoints == Breakpoints::Never && self.sites.get(&addr).is_some_and(is_unsafe) {
            return Err(Refusal::NoRoom);
        }
        if self.breakpoints == Breakpoints::Everywhere && !self.sites.contains_key(&addr) {
            return self.break_at(addr, batch);
        }
        let jump = self.site_or_neighbours(addr, MOST_NEEDED, batch);
        match jump {
            Err(refusal)
                if self.breakpoints == Breakpoints::WhereNeeded
                    && refusal.is_for_want_of_jump() =>
            {
                self.break_at(addr, batch).map_err(|_| refusal)
            }
            planned => planned,
        }
    }

    /// A site with a breakpoint.
    fn break_at(&mut self, addr: u64, batch: &mut Batch<'_>) -> Result<(), Refusal> {
        self.plan_one(addr, batch, |planner, module, body| {
            let plan = planner.plan_breakpoint(module, addr, body)?;
            let trampoline = plan.writes.last().ok_or(Refusal::NoRoom)?.0;
            let is_noted = table::insert(addr, trampoline + body.entry);
            is_noted.then_some(plan).ok_or(Refusal::NoMemory)
        })
    }

    fn site_or_neighbours(
        &mut self,
        addr: u64,
        depth: usize,
        batch: &mut Batch<'_>,
    ) -> Result<(), Refusal> {
        if self.sites.contains_key(&addr) || self.revive(addr, batch) {
            return Ok(());
        }
        let mut planned = self.plan_one(addr, batch, |planner, module, body| {
            planner.plan(module, addr, body)
        });
        if planned == Err(Refusal::Overlap) && self.forget_idle_near(addr, batch) {
            if self.revive(addr, batch) {
                return Ok(());
            }
            planned = self.plan_one(addr, batch, |planner, module, body| {
                planner.plan(module, addr, body)
            });
        }
        let Err(refusal) = planned else { return Ok(()) };
        if !refusal.is_for_want_of_room() || depth == 0 {
            return Err(refusal);
        }
        let chained = self.chain(addr, depth - 1, batch);
        chained
            .or_else(|_| self.lean(addr, batch))
            .map_err(|_| refusal)
    }

    /// Forgets sites that nobody needs and that own bytes near `addr`; a thread
    /// may still be in their trampolines, which stay. Says whether it found one.
    fn forget_idle_near(&mut self, addr: u64, batch: &Batch<'_>) -> bool {
        let around = |far: u64| addr.saturating_sub(far)..addr.saturating_add(far);
        let new: BTreeSet<u64> = batch.plans.iter().map(|(planned, _)| *planned).collect();
        let is_idle = |addr: u64, record: &Record| {
            record.is_idle() && !record.is_patched && !new.contains(&addr)
        };
        let mut needed = BTreeSet::new();
        for (addr, record) in self.sites.range(around(4 * LONGEST_LEAD)) {
            let is_candidate = around(LONGEST_LEAD).contains(addr) && is_idle(*addr, record);
            let mut need = record.needs.filter(|_| !is_candidate);
            while let Some(addr) = need.map(|need| need.addr) {
                needed.insert(addr);
                need = self.sites.get(&addr).and_then(|record| record.needs);
            }
        }
        let near = self.sites.range(around(LONGEST_LEAD));
        let idle = near.filter(|(addr, record)| is_idle(**addr, record) && !needed.contains(*addr));
        let idle: Vec<u64> = idle.map(|(addr, _)| *addr).collect();
        self.forget(&idle);
        !idle.is_empty()
    }

    /// A site that goes on from the trampoline of the instruction before it.
    fn chain(&mut self, addr: u64, depth: usize, batch: &mut Batch<'_>) -> Result<(), Refusal> {
        let before = batch.module.reached_from(addr).ok_or(Refusal::NoRoom)?;
        // It may be one of several that another site displaces.
        let leads_here = |record: &Record| {
            let has_jump = record.tactic != Tactic::Breakpoint;
            has_jump && record.tail.is_some_and(|(_, next)| next == addr)
        };
        let mut near = self.sites.range(addr.saturating_sub(LONGEST_LEAD)..addr);
        let holder = near.find(|(_, record)| leads_here(record));
        let holder = match holder {
            Some((holder, _)) => *holder,
            None => {
                self.site_or_neighbours(before, depth, batch)?;
                before
            }
        };
        let tail = self.sites.get(&holder).filter(|record| leads_here(record));
        let (tail, _) = tail
            .and_then(|record| record.tail)
            .ok_or(Refusal::Overlap)?;
        let need = Need {
            addr: holder,
            is_first: false,
        };
        self.plan_one(addr, batch, |planner, module, body| {
            planner.plan_chained(module, addr, tail, need, body)
        })
    }

    /// A site whose jump leans on the jump of the instruction behind it.
    fn lean(&mut self, addr: u64, batch: &mut Batch<'_>) -> Result<(), Refusal> {
        let spots = self.planner(batch).leaning_spots(batch.module, addr)?;
        let mut refusal = Refusal::NoRoom;
        for spot in spots {
            match self.lean_at(addr, &spot, batch) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn lean_at(&mut self, addr: u64, spot: &Spot, batch: &mut Batch<'_>) -> Result<(), Refusal> {
        let behind = spot.behind().ok_or(Refusal::NoRoom)?;
        if let Some(record) = self.sites.get(&behind) {
            if record.tactic == Tactic::Breakpoint {
                return Err(Refusal::Overlap);
            }
            let head = record.head;
            return self.plan_one(addr, batch, |planner, module, body| {
                planner.plan_leaning_on(module, (addr, spot, body), behind, &head)
            });
        }
        let mut second = None;
        self.plan_one(behind, batch, |planner, module, behind_body| {
            let site = Box::new(Site::new(addr));
            let code =
                |at, displaced: &[_]| emit::trampoline(at, &raw const *site as u64, displaced);
            let (plan, held) =
                planner.plan_leaning(module, (addr, spot, &body(&code)), behind_body)?;
            second = Some((site, plan));
            Ok(held)
        })?;
        if let Some((site, plan)) = second {
            self.record(addr, site, plan, None, batch);
        }
        Ok(())
    }

    fn planner<'a>(&'a mut self, batch: &Batch<'a>) -> Planner<'a> {
        Planner {
            arena: self.arena.get_or_insert_default(),
            owned: &self.owned,
            can_step: batch.can_step,
            wanted: Some(batch.wanted),
        }
    }

    /// Makes a site with the plan that `plan` finds for its trampoline.
    fn plan_one(
        &mut self,
        addr: u64,
        batch: &mut Batch<'_>,
        plan: impl FnOnce(&mut Planner<'_>, &Module, &Body<'_>) -> Result<Plan, Refusal>,
    ) -> Result<(), Refusal> {
        let site = Box::new(Site::new(addr));
        let named = &raw const *site as u64;
        let flags_dead = flags_dead(batch.module, addr);
        let work = batch.work_at(addr);
        let code = |at, displaced: &[_]| match &work {
            Some((inline, hits)) => {
                block::trampoline(at, displaced, (named, flags_dead), (inline, *hits))
            }
            None => emit::trampoline(at, named, displaced),
        };
        let mut body = body(&code);
        let work = work.as_ref();
        let work = work.map(|(inline, hits)| Work::Program(inline.clone(), *hits));
        if let Some(work) = &work {
            body.entry = block::entry_with(work, flags_dead);
            body.room = block::room_with(work, flags_dead).ok_or(Refusal::Immovable)?;
        }
        let plan = plan(&mut self.planner(batch), batch.module, &body)?;
        self.record(addr, site, plan, work, batch);
        Ok(())
    }

    fn record(
        &mut self,
        addr: u64,
        site: Box<Site>,
        plan: Plan,
        work: Option<Work>,
        batch: &mut Batch<'_>,
    ) {
        self.owned.insert(plan.owned.clone());
        if let Some(padding) = &plan.padding {
            let end = padding.addr + padding.len as u64;
            self.owned.insert(padding.addr..end);
        }
        let record = Record::new(site, &plan, work, batch.module);
        self.sites.insert(addr, record);
        batch.plans.push((addr, plan));
    }

    /// Writes the jumps of sites that have none yet, and of those they need;
    /// gives what failed.
    pub(super) fn patch(
        &mut self,
        sites: &BTreeSet<u64>,
        without: &BTreeMap<u64, AttachError>,
        can_step: bool,
    ) -> BTreeMap<u64, AttachError> {
        let mut due = BTreeSet::new();
        let mut open: Vec<u64> = sites.iter().copied().collect();
        while let Some(addr) = open.pop() {
            let Some(record) = self.sites.get(&addr).filter(|record| !record.is_patched) else {
                continue;
            };
            if due.insert(addr) {
                open.extend(record.needs.map(|need| need.addr));
            }
        }
        let mut failed: BTreeMap<u64, AttachError> = BTreeMap::new();
        for level in self.levels(&due) {
            let is_able = |addr: &u64| !without.contains_key(addr) && !failed.contains_key(addr);
            let able: Vec<u64> = level.into_iter().filter(is_able).collect();
            failed.extend(self.change(&able, true, can_step));
            self.fail_with_needs(&due, without, &mut failed);
        }
        // Held by nobody if what needed them failed.
        let unheld: BTreeSet<u64> = failed
            .keys()
            .filter_map(|addr| Some(self.sites.get(addr)?.needs?.addr))
            .collect();
        self.unpatch(&unheld, can_step);
        failed
    }

    /// Sites whose needs failed have failed.
    fn fail_with_needs(
        &self,
        due: &BTreeSet<u64>,
        without: &BTreeMap<u64, AttachError>,
        failed: &mut BTreeMap<u64, AttachError>,
    ) {
        loop {
            let reason = |addr: &u64| {
                let need = self.sites.get(addr)?.needs?.addr;
                let error = failed.get(&need).or_else(|| without.get(&need))?;
                (!failed.contains_key(addr)).then(|| (*addr, error.clone()))
            };
            let more: Vec<_> = due.iter().filter_map(reason).collect();
            if more.is_empty() {
                return;
            }
            failed.extend(more);
        }
    }

    /// Gives sites without probes, and those that only they needed, their
    /// original bytes back. What someone else has changed in the meantime stays
    /// as it is, and so does our trampoline.
    pub(super) fn unpatch(&mut self, sites: &BTreeSet<u64>, can_step: bool) {
        let mut holders: BTreeMap<u64, usize> = BTreeMap::new();
        let mut due = BTreeSet::new();
        let mut open: Vec<u64> = sites.iter().copied().collect();
        while let Some(addr) = open.pop() {
            let Some(record) = self.sites.get(&addr) else {
                continue;
            };
            let holders_left = holders.get(&addr).copied().unwrap_or(record.holders);
            if !record.is_patched || !record.is_idle() || holders_left > 0 || !due.insert(addr) {
                continue;
            }
            if let Some(need) = record.needs
                && let Some(needed) = self.sites.get(&need.addr)
            {
                let left = holders.entry(need.addr).or_insert(needed.holders);
                *left = left.saturating_sub(1);
                open.push(need.addr);
            }
        }
        for level in self.levels(&due).into_iter().rev() {
            // One that could not be undone still needs what it needs.
            let is_first_for = |addr: &u64| {
                let record = self.sites.get(addr);
                record.is_some_and(|record| record.leaning == 0)
            };
            let able: Vec<u64> = level.into_iter().filter(is_first_for).collect();
            let _failed = self.change(&able, false, can_step);
        }
    }

    /// Sites by how many have to be patched before them.
    fn levels(&self, due: &BTreeSet<u64>) -> Vec<Vec<u64>> {
        let mut levels: Vec<Vec<u64>> = Vec::new();
        for addr in due {
            let first = |addr: &u64| {
                let need = self.sites.get(addr)?.needs?;
                need.is_first.then_some(need.addr)
            };
            let level = std::iter::successors(first(addr), first).count();
            if levels.len() <= level {
                levels.resize_with(level + 1, Vec::new);
            }
            if let Some(level) = levels.get_mut(level) {
                level.push(*addr);
            }
        }
        levels
    }

    /// Writes or undoes the jumps of sites; gives what failed.
    fn change(
        &mut self,
        sites: &[u64],
        is_patched: bool,
        can_step: bool,
    ) -> BTreeMap<u64, AttachError> {
        let head = |addr: &u64| {
            let head = self.sites.get(addr)?.head;
            Some(if is_patched { head } else { head.reversed() })
        };
        let changes: Vec<Change> = sites.iter().filter_map(head).collect();
        // SAFETY: we hold the lock. The planner proved each change to be one
        // instruction's, or the last jump of a trampoline; what it leads to is
        // written, and the original bytes are what was there.
        let outcomes = unsafe { text::change(&changes, can_step) };
        let mut failed = BTreeMap::new();
        for (addr, outcome) in sites.iter().zip(outcomes) {
            match outcome {
                Outcome::Done => self.changed(*addr, is_patched),
                Outcome::Unexpected => {
                    failed.insert(*addr, refused(*addr, Refusal::Patched));
                }
                Outcome::Denied(error) => {
                    failed.insert(*addr, denied(error));
                }
            }
        }
        failed
    }

    pub(super) fn changed(&mut self, addr: u64, is_patched: bool) {
        let Some(record) = self.sites.get_mut(&addr) else {
            return;
        };
        record.is_patched = is_patched;
        let Some(need) = record.needs else { return };
        if let Some(needed) = self.sites.get_mut(&need.addr) {
            let count = |n: usize| {
                if is_patched {
                    n + 1
                } else {
                    n.saturating_sub(1)
                }
            };
            needed.holders = count(needed.holders);
            if need.is_first {
                needed.leaning = count(needed.leaning);
            }
        }
    }
}

fn body<'a>(code: &'a crate::arch::plan::MakeCode<'a>) -> Body<'a> {
    Body {
        room: emit::TRAMPOLINE_BYTES,
        entry: emit::TRAMPOLINE_ENTRY,
        code,
    }
}
