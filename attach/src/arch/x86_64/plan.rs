//! How a jump to a trampoline fits at an address, if it does. It changes no
//! text: a plan says what would be written.
//!
//! Only bytes of one instruction change (and dead padding), so a thread,
//! signal frame or longjmp target anywhere else in the function sees what was
//! there. It is the first, or one behind instructions that only lower the stack
//! pointer, which a trampoline can undo and do again: compilers start functions
//! with them, and they are too short for a jump.
//! What needs more is refused.

use std::collections::BTreeSet;
use std::ops::Range;

use super::decode::{First, may_jump_into};
use super::emit::{self, JUMP_LEN};
use super::flow::Flow;
use crate::arena::{Arena, Intervals};
use crate::error::Refusal;
use crate::module::{LONGEST_PADDING, Module};
use crate::probe::Tactic;
use crate::text::{self, Change};

/// Enough for any instruction.
const LONGEST: usize = 15;
/// Bytes of `jmp rel8`.
const SHORT_JUMP_LEN: usize = 2;
/// Most instructions that are undone before the one that becomes a jump: there
/// are six callee-saved registers to push, an endbr64 and a `sub rsp`.
const MOST_UNDONE: usize = 8;

/// What is to be written for one site.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tactic: Tactic,
    /// The probed function's first bytes: written last, undone at detach.
    pub(crate) head: Change,
    /// Landing, and last the trampoline: text that no thread executes before
    /// the head is written.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// A jump in dead padding: written before the head, and left there, for a
    /// thread may be just about to execute it.
    pub(crate) padding: Option<Change>,
    /// Bytes at the address that the plan changes or relies on.
    pub(crate) owned: Range<u64>,
    /// The site that has to be patched as long as this one is.
    pub(crate) needs: Option<Need>,
    /// The trampoline's last jump, and where it goes: behind what is displaced.
    pub(crate) tail: Option<(u64, u64)>,
}

/// Another site that a plan relies on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Need {
    pub(crate) addr: u64,
    /// It has to be patched before, and undone after.
    pub(crate) is_first: bool,
}

impl Plan {
    /// One that changes a head only.
    pub(super) fn new(tactic: Tactic, head: Change, owned: Range<u64>) -> Plan {
        Plan {
            tactic,
            head,
            writes: Vec::new(),
            padding: None,
            owned,
            needs: None,
            tail: None,
        }
    }

    /// Adds the trampoline.
    pub(super) fn with_code(mut self, at: u64, code: Vec<u8>, displaced: &[First]) -> Plan {
        let next = displaced.last().map_or(0, First::next);
        let last = (at + code.len() as u64).saturating_sub(JUMP_LEN as u64);
        let jump = emit::near_jump(last, next).filter(|jump| code.ends_with(jump));
        self.tail = jump.map(|_| (last, next));
        self.writes.push((at, code));
        self
    }
}

/// Makes a trampoline's code for an address and the instructions that are
/// displaced: the jump is the last of them, the others have run when it is
/// reached.
pub(crate) type MakeCode<'a> = dyn Fn(u64, &[First]) -> Result<Vec<u8>, Refusal> + 'a;

/// What a trampoline contains, for a planner that knows only where a jump fits.
pub(crate) struct Body<'a> {
    /// Room that the code may take.
    pub(crate) room: u64,
    /// Where the trampoline is entered, from its start.
    pub(crate) entry: u64,
    /// The code.
    pub(crate) code: &'a MakeCode<'a>,
}

/// Where plans are made.
pub(crate) struct Planner<'a> {
    pub(crate) arena: &'a mut Arena,
    /// Bytes of text that other sites changed or rely on.
    pub(crate) owned: &'a Intervals,
    /// Whether text can be changed in steps.
    pub(crate) can_step: bool,
    /// Addresses that are asked for, which no other site shall displace.
    pub(crate) wanted: Option<&'a BTreeSet<u64>>,
}

/// A place where the jump may go: an instruction of the function, behind others
/// that can be undone.
pub(crate) struct Spot {
    /// The instruction that becomes a jump.
    pub(super) addr: u64,
    /// It, and before it those that have run when the jump is reached.
    pub(super) displaced: Vec<First>,
    /// Original bytes from `addr` on.
    pub(super) original: Vec<u8>,
}

impl Spot {
    /// Bytes of the instruction that becomes a jump.
    pub(super) fn len(&self) -> usize {
        self.displaced.last().map_or(0, First::len)
    }

    /// The instruction that runs after it.
    pub(crate) fn behind(&self) -> Option<u64> {
        let last = self.displaced.last()?;
        last.falls_through().then(|| last.next())
    }

    /// What is displaced if the trampoline is called in place of what it calls.
    fn called(&self) -> Option<Vec<First>> {
        let (last, lead) = self.displaced.split_last()?;
        Some([lead, &[last.called()?]].concat())
    }

    /// Where `jmp rel8` may lead.
    fn reach(&self) -> Range<u64> {
        let behind = self.addr + SHORT_JUMP_LEN as u64;
        behind.saturating_sub(128)..behind + 128
    }
}

impl Planner<'_> {
    /// Plans a hook at `addr`, whose trampoline will contain `body`.
    pub(crate) fn plan(
        &mut self,
        module: &Module,
        addr: u64,
        body: &Body<'_>,
    ) -> Result<Plan, Refusal> {
        let first = self.first_spot(module, addr)?;
        let mut spots = vec![first];
        spots.extend(self.later_spots(module, addr));
        let at = self.arena.near(addr, body.room).ok_or(Refusal::NoMemory)?;
        if let Some(plan) = self.retarget(&spots, at, body) {
            return Ok(plan);
        }
        match self.fit(module, &spots, addr, at, body) {
            Ok((spot, mut plan)) => {
                let code = (body.code)(at, &spot.displaced).inspect_err(|_| self.forget(at))?;
                plan.owned.start = addr;
                Ok(plan.with_code(at, code, &spot.displaced))
            }
            Err(refusal) => {
                self.forget(at);
                Err(refusal)
            }
        }
    }

    /// Plans a breakpoint at `addr`: a single byte, so that it does not matter
    /// what jumps where, or what is behind.
    pub(crate) fn plan_breakpoint(
        &mut self,
        module: &Module,
        addr: u64,
        body: &Body<'_>,
    ) -> Result<Plan, Refusal> {
        const BREAKPOINT: u8 = 0xcc;
        let first = match self.instruction(module, addr) {
            Err(Refusal::JumpedInto) => {
                let original = module.original(addr, LONGEST).ok_or(Refusal::OutsideText)?;
                First::decode(original, addr)?
            }
            found => found?,
        };
        let owned = addr..addr + 1;
        if self.owned.overlaps(&owned) {
            return Err(Refusal::Overlap);
        }
        let original = module.original(addr, 1).ok_or(Refusal::OutsideText)?;
        let head = Change::new(addr, original, &[BREAKPOINT]);
        let at = self.arena.near(addr, body.room).ok_or(Refusal::NoMemory)?;
        let code = (body.code)(at, &[first]).inspect_err(|_| self.forget(at))?;
        let plan = Plan::new(Tactic::Breakpoint, head, owned);
        Ok(plan.with_code(at, code, &[first]))
    }

    /// A direct call that calls the trampoline: the genuine return address is
    /// on the stack, where a processor that checks returns expects it.
    fn retarget(&self, spots: &[Spot], at: u64, body: &Body<'_>) -> Option<Plan> {
        let (spot, displaced) = spots.iter().find_map(|spot| Some((spot, spot.called()?)))?;
        let call = emit::near_call(spot.addr, at + body.entry)?;
        let head = Change::new(spot.addr, &spot.original, &call);
        let code = (body.code)(at, &displaced).ok()?;
        let first = spots.first().map_or(spot.addr, |first| first.addr);
        let owned = first..spot.addr + JUMP_LEN as u64;
        let plan = Plan::new(Tactic::Call, head, owned).with_code(at, code, &displaced);
        self.is_possible(&head).then_some(plan)
    }

    /// Finds the first spot and tactic that fit, the exact tactics first.
    fn fit<'s>(
        &mut self,
        module: &Module,
        spots: &'s [Spot],
        addr: u64,
        at: u64,
        body: &Body<'_>,
    ) -> Result<(&'s Spot, Plan), Refusal> {
        let entry = at + body.entry;
        // What cannot be moved cannot be hooked, however the jump fits.
        let mut refusal = Refusal::Immovable;
        let mut movable = Vec::with_capacity(spots.len());
        for spot in spots {
            match (body.code)(at, &spot.displaced) {
                Ok(_) => movable.push(spot),
                Err(error) => refusal = error,
            }
        }
        let jump = movable
            .iter()
            .find_map(|spot| Some((*spot, self.jump(spot, entry)?)));
        let exact = jump.or_else(|| {
            let first = movable.iter().find(|spot| spot.addr == addr)?;
            Some((*first, self.short(module, first, entry)?))
        });
        let safe = exact.or_else(|| {
            let mut spots = movable.iter();
            spots.find_map(|spot| Some((*spot, self.through_padding(module, spot, entry)?)))
        });
        let is_inside = module.is_inside_function(addr);
        let safe = safe.or_else(|| {
            let flow = if is_inside {
                module.flow(addr)?
            } else {
                return None;
            };
            let mut spots = movable.iter();
            spots.find_map(|spot| Some((*spot, self.through_gaps(module, flow, spot, entry)?)))
        });
        if let Some(found) = safe {
            return Ok(found);
        }
        // The widest window first.
        let mut order = movable;
        order.sort_by_key(|spot| core::cmp::Reverse(spot.len()));
        for spot in order {
            match self.pun(module, spot, entry) {
                Ok(plan) => return Ok((spot, plan)),
                Err(error) => refusal = error,
            }
        }
        // All functions have to be looked at for these.
        let late = if is_inside { None } else { module.flow(addr) };
        let late = late.and_then(|flow| {
            let mut spots = spots.iter();
            spots.find_map(|spot| Some((spot, self.through_gaps(module, flow, spot, entry)?)))
        });
        late.ok_or(refusal)
    }

    /// The instruction at `addr`, if it may be displaced.
    pub(super) fn instruction(&self, module: &Module, addr: u64) -> Result<First, Refusal> {
        if let Some(refusal) = module.entry_refusal(addr) {
            return Err(refusal);
        }
        let original = module.original(addr, LONGEST).ok_or(Refusal::OutsideText)?;
        let flow = if module.is_inside_function(addr) {
            module.flow(addr)
        } else {
            None
        };
        if flow.is_some_and(|flow| !flow.is_start(addr)) {
            return Err(Refusal::NotInstruction);
        }
        let first = First::decode(original, addr)?;
        let own = addr..addr + first.len() as u64;
        if !module.is_original(&own) {
            return Err(Refusal::Patched);
        }
        if flow.is_some_and(|flow| flow.is_target_in(&(addr + 1..own.end))) {
            return Err(Refusal::JumpedInto);
        }
        Ok(first)
    }

    pub(super) fn first_spot(&self, module: &Module, addr: u64) -> Result<Spot, Refusal> {
        let first = self.instruction(module, addr)?;
        let original = module.original(addr, LONGEST).ok_or(Refusal::OutsideText)?;
        let own = addr..addr + first.len() as u64;
        if self.owned.overlaps(&own) {
            return Err(Refusal::Overlap);
        }
        Ok(Spot {
            addr,
            displaced: vec![first],
            original: original.to_vec(),
        })
    }

    /// Instructions behind those that lower the stack, where nothing jumps to:
    /// a thread that reaches them has run the others just before.
    pub(super) fn later_spots(&self, module: &Module, addr: u64) -> Vec<Spot> {
        let mut spots = Vec::new();
        let Some(function) = module.function_bytes(addr) else {
            return spots;
        };
        let mut displaced = Vec::new();
        let mut at = addr;
        loop {
            let inside = (at - addr) as usize;
            let original = function
                .get(inside..function.len().min(inside + LONGEST))
                .unwrap_or(&[]);
            let Ok(first) = First::decode(original, at) else {
                break;
            };
            displaced.push(first);
            let range = addr..at + first.len() as u64;
            if !module.is_original(&range) || self.owned.overlaps(&range) {
                break;
            }
            if at != addr && self.wanted.is_some_and(|wanted| wanted.contains(&at)) {
                break;
            }
            if at != addr {
                spots.push(Spot {
                    addr: at,
                    displaced: displaced.clone(),
                    original: original.to_vec(),
                });
            }
            if first.undone_by().is_none() || displaced.len() > MOST_UNDONE {
                break;
            }
            at = first.next();
        }
        let last = spots.last().map_or(addr, |spot| spot.addr);
        let between = addr + 1..last + 1;
        if module.has_start_in(&between) || may_jump_into(function, addr, &between) {
            spots.clear();
        }
        spots
    }

    pub(super) fn forget(&mut self, taken: u64) {
        self.arena.give_back(&(taken..taken + 1));
    }

    /// `jmp rel32` over an instruction that is long enough.
    pub(super) fn jump(&self, spot: &Spot, entry: u64) -> Option<Plan> {
        let most = spot.len().checked_sub(JUMP_LEN)?;
        let heads = (0..=most.min(emit::MOST_PREFIXES)).filter_map(|prefixes| {
            let jump = emit::prefixed_jump(&spot.original, prefixes, spot.addr, entry)?;
            Some(Change::new(spot.addr, &spot.original, &jump))
        });
        let head = heads.into_iter().find(|head| self.is_possible(head))?;
        let owned = spot.addr..spot.addr + head.len as u64;
        Some(Plan::new(Tactic::Jump, head, owned))
    }

    /// `jmp rel32` over a function of one short instruction and its padding.
    fn short(&self, module: &Module, spot: &Spot, entry: u64) -> Option<Plan> {
        if module.function_bytes(spot.addr)?.len() != spot.len() {
            return None;
        }
        self.over_gap(module, spot, entry, &module.padding_of(spot.addr)?)
    }

    /// `jmp rel32` over a short instruction and dead bytes behind it.
    pub(super) fn over_gap(
        &self,
        module: &Module,
        spot: &Spot,
        entry: u64,
        gap: &Range<u64>,
    ) -> Option<Plan> {
        let end = spot.addr + JUMP_LEN as u64;
        if end <= gap.start || gap.end < end || !self.is_free(module, &(gap.start..end)) {
            return None;
        }
        let head = Change::new(
            spot.addr,
            &spot.original,
            &emit::near_jump(spot.addr, entry)?,
        );
        self.is_possible(&head)
            .then(|| Plan::new(Tactic::Short, head, spot.addr..end))
    }

    /// `jmp rel8` to a `jmp rel32` in dead padding between functions.
    fn through_padding(&self, module: &Module, spot: &Spot, entry: u64) -> Option<Plan> {
        // Padding may start before the reach of `jmp rel8` and end in it.
        let around = spot.reach();
        let around = around.start.saturating_sub(LONGEST_PADDING)..around.end;
        let mut gaps = module.padding_starting_in(around);
        gaps.find_map(|gap| self.through_gap(module, spot, entry, &gap))
    }

    /// What is dead inside functions, too: `jmp rel32` over a short instruction
    /// and what is behind it, or `jmp rel8` to dead bytes near by.
    fn through_gaps(&self, module: &Module, flow: &Flow, spot: &Spot, entry: u64) -> Option<Plan> {
        let behind = spot.addr + spot.len() as u64;
        let mut at = flow.gaps(behind..behind + 1);
        let here = at.find(|gap| gap.start == behind);
        here.and_then(|gap| self.over_gap(module, spot, entry, gap))
            .or_else(|| {
                let mut gaps = flow.gaps(spot.reach());
                gaps.find_map(|gap| self.through_gap(module, spot, entry, gap))
            })
    }

    pub(super) fn through_gap(
        &self,
        module: &Module,
        spot: &Spot,
        entry: u64,
        gap: &Range<u64>,
    ) -> Option<Plan> {
        if spot.len() < SHORT_JUMP_LEN {
            return None;
        }
        // From its end: its start may serve the instruction before it.
        let last = gap.end.checked_sub(JUMP_LEN as u64)?;
        let places = (gap.start..=last).rev().map(|at| at..at + JUMP_LEN as u64);
        for place in places {
            let Some(short) = emit::short_jump(spot.addr, place.start) else {
                continue;
            };
            if !self.is_free(module, &place) {
                continue;
            }
            let head = Change::new(spot.addr, &spot.original, &short);
            if !self.is_possible(&head) {
                return None;
            }
            let old = module.original(place.start, JUMP_LEN)?;
            let jump = emit::near_jump(place.start, entry)?;
            let owned = spot.addr..spot.addr + SHORT_JUMP_LEN as u64;
            return Some(Plan {
                padding: Some(Change::new(place.start, old, &jump)),
                ..Plan::new(Tactic::Padding, head, owned)
            });
        }
        None
    }

    pub(super) fn is_possible(&self, change: &Change) -> bool {
        text::is_possible(change, self.can_step)
    }

    /// Whether bytes outside the probed instruction may be changed.
    fn is_free(&self, module: &Module, range: &Range<u64>) -> bool {
        !self.owned.overlaps(range) && module.is_original(range)
    }
}
