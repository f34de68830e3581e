//! How a jump to a trampoline fits at an address, if it does. It changes no
//! text: a plan says what would be written.
//!
//! Only bytes of the first instruction change (and dead padding), so a thread,
//! signal frame or longjmp target anywhere else in the function sees what was
//! there. What needs more is refused.

use std::ops::Range;

use super::decode::First;
use super::emit::{self, JUMP_LEN};
use crate::arena::{Arena, Intervals};
use crate::error::Refusal;
use crate::module::Module;
use crate::probe::Tactic;
use crate::text::Change;

/// Enough for any instruction.
const LONGEST: usize = 15;

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

/// Where plans are made.
pub(crate) struct Planner<'a> {
    pub(crate) arena: &'a mut Arena,
    /// Bytes of text that other sites changed or rely on.
    pub(crate) owned: &'a Intervals,
    /// Whether text can be changed in steps.
    pub(crate) can_step: bool,
}

impl Planner<'_> {
    /// Plans a hook at `addr`, whose trampoline will name `site`.
    pub(crate) fn plan(&mut self, module: &Module, addr: u64, site: u64) -> Result<Plan, Refusal> {
        let original = module.original(addr, LONGEST).ok_or(Refusal::OutsideText)?;
        if let Some(refusal) = module.entry_refusal(addr) {
            return Err(refusal);
        }
        let first = First::decode(original, addr)?;
        let own = addr..addr + first.len() as u64;
        if !is_original(module, &own) {
            return Err(Refusal::Patched);
        }
        if self.owned.overlaps(&own) {
            return Err(Refusal::Overlap);
        }
        let at = self
            .arena
            .near(addr, emit::TRAMPOLINE_BYTES)
            .ok_or(Refusal::NoMemory)?;
        let code = emit::trampoline(at, site, &first).inspect_err(|_| self.forget(at))?;
        let trampoline = (at, code);
        let entry = emit::trampoline_entry(at);
        let plan = self
            .jump(addr, &first, original, entry)
            .or_else(|| self.short(module, addr, &first, original, entry))
            .or_else(|| self.through_padding(module, addr, &first, original, entry))
            .map_or_else(|| self.pun(module, addr, &first, original, entry), Ok);
        match plan {
            Ok(mut plan) => {
                plan.writes.push(trampoline);
                Ok(plan)
            }
            Err(refusal) => {
                self.forget(at);
                Err(refusal)
            }
        }
    }

    fn forget(&mut self, trampoline: u64) {
        self.arena.give_back(&(trampoline..trampoline + 1));
    }

    /// `jmp rel32` over an instruction that is long enough.
    fn jump(&self, addr: u64, first: &First, original: &[u8], entry: u64) -> Option<Plan> {
        if first.len() < JUMP_LEN {
            return None;
        }
        let head = Change::new(addr, original, &emit::near_jump(addr, entry)?);
        self.is_possible(&head).then(|| Plan {
            tactic: Tactic::Jump,
            head,
            writes: Vec::new(),
            padding: None,
            owned: addr..addr + JUMP_LEN as u64,
        })
    }

    /// `jmp rel32` over a function of one short instruction and its padding.
    fn short(
        &self,
        module: &Module,
        addr: u64,
        first: &First,
        original: &[u8],
        entry: u64,
    ) -> Option<Plan> {
        if module.function_len(addr)? != first.len() as u64 {
            return None;
        }
        let end = addr + JUMP_LEN as u64;
        let padding = module.padding_of(addr)?;
        if padding.end < end || !self.is_free(module, &(padding.start..end)) {
            return None;
        }
        let head = Change::new(addr, original, &emit::near_jump(addr, entry)?);
        self.is_possible(&head).then(|| Plan {
            tactic: Tactic::Short,
            head,
            writes: Vec::new(),
            padding: None,
            owned: addr..end,
        })
    }

    /// `jmp rel8` to a `jmp rel32` in dead padding.
    fn through_padding(
        &self,
        module: &Module,
        addr: u64,
        first: &First,
        original: &[u8],
        entry: u64,
    ) -> Option<Plan> {
        const SHORT: u64 = 2;
        if (first.len() as u64) < SHORT {
            return None;
        }
        let reach = (addr + SHORT).saturating_sub(128)..addr + SHORT + 128;
        // Padding may start before the reach and end in it.
        let around = reach.start.saturating_sub(64)..reach.end;
        for padding in module.padding_starting_in(around) {
            let mut at = padding.start;
            while at + JUMP_LEN as u64 <= padding.end {
                let gap = at..at + JUMP_LEN as u64;
                at += 1;
                let Some(short) = emit::short_jump(addr, gap.start) else {
                    continue;
                };
                if !self.is_free(module, &gap) {
                    continue;
                }
                let head = Change::new(addr, original, &short);
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
                    owned: addr..addr + SHORT,
                });
            }
        }
        None
    }

    /// `jmp rel32` of which the last bytes are those that are there already:
    /// it lands where they say, within a window given by the bytes that change.
    fn pun(
        &mut self,
        module: &Module,
        addr: u64,
        first: &First,
        original: &[u8],
        entry: u64,
    ) -> Result<Plan, Refusal> {
        let all = addr..addr + JUMP_LEN as u64;
        if original.len() < JUMP_LEN || !is_original(module, &all) {
            return Err(Refusal::NoRoom);
        }
        if self.owned.overlaps(&all) {
            return Err(Refusal::Overlap);
        }
        let mut refusal = Refusal::Straddles;
        // Changing one byte is always possible, but leaves one landing only.
        let most = first.len().min(JUMP_LEN);
        for changed in if most == 1 { vec![1] } else { vec![most, 1] } {
            let mut low = [0_u8; 4];
            low[changed - 1..].copy_from_slice(&original[changed..JUMP_LEN]);
            let window_start = addr
                .wrapping_add(JUMP_LEN as u64)
                .wrapping_add_signed(i64::from(i32::from_le_bytes(low)));
            let window = window_start..window_start.saturating_add(1 << (8 * (changed - 1)));
            let to_probe = Change::new(addr, original, &original[..changed]);
            if !self.is_possible(&to_probe) {
                continue;
            }
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
        !self.owned.overlaps(range) && is_original(module, range)
    }
}

/// Whether memory holds what the file has.
fn is_original(module: &Module, range: &Range<u64>) -> bool {
    let len = (range.end - range.start) as usize;
    match module.original(range.start, len) {
        Some(original) if original.len() == len => original.iter().enumerate().all(|(i, byte)| {
            // SAFETY: the module's text is mapped readable in this process.
            *byte == unsafe { ((range.start + i as u64) as *const u8).read_volatile() }
        }),
        _ => false,
    }
}
