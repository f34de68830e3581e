//! How a jump to a trampoline fits at an address, if it does. It changes no
//! text: a plan says what would be written.
//!
//! Only bytes of one instruction change (and dead padding), so a thread,
//! signal frame or longjmp target anywhere else in the function sees what was
//! there. It is the first, or one behind instructions that only lower the stack
//! pointer, which a trampoline can undo and do again: compilers start functions
//! with them, and they are too short for a jump.
//! What needs more is refused.

use std::ops::Range;

use super::decode::{First, may_jump_into};
use super::emit::{self, JUMP_LEN};
use crate::arena::{Arena, Intervals};
use crate::error::Refusal;
use crate::module::{LONGEST_PADDING, Module};
use crate::probe::Tactic;
use crate::text::Change;

/// Enough for any instruction.
const LONGEST: usize = 15;
/// Most instructions that are undone before the one that becomes a jump: there
/// are six callee-saved registers to push, an endbr64 and a `sub rsp`.
const MOST_UNDONE: usize = 8;

/// What is to be written for one site.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tactic: Tactic,
    /// The probed function's first bytes: written last, undone at detach.
    pub(crate) head: Change,
    /// Trampoline, landing: text that no thread executes before the head is
    /// written.
    pub(crate) writes: Vec<(u64, Vec<u8>)>,
    /// A jump in dead padding: written before the head, and left there, for a
    /// thread may be just about to execute it.
    pub(crate) padding: Option<Change>,
    /// Bytes at the address that the plan changes or relies on.
    pub(crate) owned: Range<u64>,
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
}

/// A place where the jump may go: an instruction of the function, behind others
/// that can be undone.
struct Spot {
    /// The instruction that becomes a jump.
    addr: u64,
    /// It, and before it those that have run when the jump is reached.
    displaced: Vec<First>,
    /// Original bytes from `addr` on.
    original: Vec<u8>,
}

impl Spot {
    /// Bytes of the instruction that becomes a jump.
    fn len(&self) -> usize {
        self.displaced.last().map_or(0, First::len)
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
        if let Some(refusal) = module.entry_refusal(addr) {
            return Err(refusal);
        }
        let mut spots = vec![self.first_spot(module, addr)?];
        spots.extend(self.later_spots(module, addr));
        let at = self.arena.near(addr, body.room).ok_or(Refusal::NoMemory)?;
        match self.fit(module, &spots, addr, at, body) {
            Ok((spot, mut plan)) => {
                let code = (body.code)(at, &spot.displaced).inspect_err(|_| self.forget(at))?;
                plan.writes.push((at, code));
                plan.owned.start = addr;
                Ok(plan)
            }
            Err(refusal) => {
                self.forget(at);
                Err(refusal)
            }
        }
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
            movable
                .iter()
                .find_map(|spot| Some((*spot, self.through_padding(module, spot, entry)?)))
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
        Err(refusal)
    }

    fn first_spot(&self, module: &Module, addr: u64) -> Result<Spot, Refusal> {
        let original = module.original(addr, LONGEST).ok_or(Refusal::OutsideText)?;
        let first = First::decode(original, addr)?;
        let own = addr..addr + first.len() as u64;
        if !module.is_original(&own) {
            return Err(Refusal::Patched);
        }
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
    fn later_spots(&self, module: &Module, addr: u64) -> Vec<Spot> {
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

    fn forget(&mut self, taken: u64) {
        self.arena.give_back(&(taken..taken + 1));
    }

    /// `jmp rel32` over an instruction that is long enough.
    fn jump(&self, spot: &Spot, entry: u64) -> Option<Plan> {
        if spot.len() < JUMP_LEN {
            return None;
        }
        let head = Change::new(
            spot.addr,
            &spot.original,
            &emit::near_jump(spot.addr, entry)?,
        );
        self.is_possible(&head).then(|| Plan {
            tactic: Tactic::Jump,
            head,
            writes: Vec::new(),
            padding: None,
            owned: spot.addr..spot.addr + JUMP_LEN as u64,
        })
    }

    /// `jmp rel32` over a function of one short instruction and its padding.
    fn short(&self, module: &Module, spot: &Spot, entry: u64) -> Option<Plan> {
        if module.function_bytes(spot.addr)?.len() != spot.len() {
            return None;
        }
        let end = spot.addr + JUMP_LEN as u64;
        let padding = module.padding_of(spot.addr)?;
        if padding.end < end || !self.is_free(module, &(padding.start..end)) {
            return None;
        }
        let head = Change::new(
            spot.addr,
            &spot.original,
            &emit::near_jump(spot.addr, entry)?,
        );
        self.is_possible(&head).then(|| Plan {
            tactic: Tactic::Short,
            head,
            writes: Vec::new(),
            padding: None,
            owned: spot.addr..end,
        })
    }

    /// `jmp rel8` to a `jmp rel32` in dead padding.
    fn through_padding(&self, module: &Module, spot: &Spot, entry: u64) -> Option<Plan> {
        const SHORT: u64 = 2;
        if (spot.len() as u64) < SHORT {
            return None;
        }
        // Padding may start before the reach of `jmp rel8` and end in it.
        let behind = spot.addr + SHORT;
        let around = behind.saturating_sub(128 + LONGEST_PADDING)..behind + 128;
        for padding in module.padding_starting_in(around) {
            let mut at = padding.start;
            while at + JUMP_LEN as u64 <= padding.end {
                let gap = at..at + JUMP_LEN as u64;
                at += 1;
                let Some(short) = emit::short_jump(spot.addr, gap.start) else {
                    continue;
                };
                if !self.is_free(module, &gap) {
                    continue;
                }
                let head = Change::new(spot.addr, &spot.original, &short);
                if !self.is_possible(&head) {
                    return None;
                }
                let old = module.original(gap.start, JUMP_LEN)?;
                let jump = emit::near_jump(gap.start, entry)?;
                return Some(Plan {
                    tactic: Tactic::Padding,
                    head,
                    writes: Vec::new(),
                    padding: Some(Change::new(gap.start, old, &jump)),
                    owned: spot.addr..behind,
                });
            }
        }
        None
    }

    /// `jmp rel32` of which the last bytes are those that are there already:
    /// it lands where they say, within a window given by the bytes that change.
    /// The last resort: it holds as long as nobody else changes those bytes.
    fn pun(&mut self, module: &Module, spot: &Spot, entry: u64) -> Result<Plan, Refusal> {
        let (addr, original) = (spot.addr, &spot.original);
        let all = addr..addr + JUMP_LEN as u64;
        if original.len() < JUMP_LEN || !module.is_original(&all) {
            return Err(Refusal::NoRoom);
        }
        if self.owned.overlaps(&all) {
            return Err(Refusal::Overlap);
        }
        let mut refusal = Refusal::Straddles;
        // Changing one byte is always possible, but leaves one landing only.
        let most = spot.len().min(JUMP_LEN);
        for changed in [most, 1] {
            if changed == JUMP_LEN
                || !self.is_possible(&Change::new(addr, original, &original[..changed]))
            {
                continue;
            }
            let mut low = [0_u8; 4];
            low[changed - 1..].copy_from_slice(&original[changed..JUMP_LEN]);
            let distance = i64::from(i32::from_le_bytes(low));
            let start = all.end.wrapping_add_signed(distance);
            let window = start..start.saturating_add(1 << (8 * (changed - 1)));
            refusal = Refusal::NoMemory;
            let Some(landing) = self.arena.within(window, emit::LANDING_BYTES) else {
                continue;
            };
            let Some(jump) = emit::near_jump(addr, landing) else {
                self.forget(landing);
                continue;
            };
            debug_assert_eq!(jump[changed..], original[changed..JUMP_LEN]);
            return Ok(Plan {
                tactic: Tactic::Pun,
                head: Change::new(addr, original, &jump[..changed]),
                writes: vec![(landing, emit::any_jump(landing, entry))],
                padding: None,
                owned: all,
            });
        }
        Err(refusal)
    }

    fn is_possible(&self, change: &Change) -> bool {
        change.is_in_one_word() || (self.can_step && change.can_be_stepped())
    }

    /// Whether bytes outside the probed instruction may be changed.
    fn is_free(&self, module: &Module, range: &Range<u64>) -> bool {
        !self.owned.overlaps(range) && module.is_original(range)
    }
}
