//! Jumps whose last bytes are those that are there already. It knows where
//! such a jump may land, and nothing of what it lands on.

use std::ops::Range;

use super::emit::{self, JUMP_LEN};
use super::plan::{Plan, Planner, Spot};
use crate::error::Refusal;
use crate::module::Module;
use crate::probe::Tactic;
use crate::text::Change;

/// How far a jump of four bytes' distance leads.
const FARTHEST: u64 = (1 << 31) - 1;

/// A form that a punned jump may take.
pub(super) struct Form {
    pub(super) prefixes: usize,
    /// Bytes that change, from the first prefix on.
    pub(super) changed: usize,
    /// Where it may land.
    pub(super) window: Range<u64>,
}

impl Form {
    /// Bytes of the whole jump.
    pub(super) fn len(&self) -> usize {
        self.prefixes + JUMP_LEN
    }
}

impl Planner<'_> {
    /// `jmp rel32` of which the last bytes are those that are there already:
    /// it lands where they say, within a window given by the bytes that change.
    /// The last resort: it holds as long as nobody else changes those bytes.
    pub(super) fn pun(
        &mut self,
        module: &Module,
        spot: &Spot,
        entry: u64,
    ) -> Result<Plan, Refusal> {
        let mut refusal = Refusal::Straddles;
        for prefixes in 0..spot.len().min(emit::MOST_PREFIXES + 1) {
            let Some(form) = self.form(spot, prefixes) else {
                continue;
            };
            let all = spot.addr..spot.addr + form.len() as u64;
            if spot.original.len() < form.len() || !module.is_original(&all) {
                refusal = Refusal::NoRoom;
                continue;
            }
            if self.owned.overlaps(&all) {
                refusal = Refusal::Overlap;
                continue;
            }
            match self.land(spot, &form, entry, all) {
                Some(plan) => return Ok(plan),
                None => refusal = Refusal::NoMemory,
            }
        }
        Err(refusal)
    }

    /// The same, where the last bytes will be those of `behind`.
    pub(super) fn pun_before(
        &mut self,
        module: &Module,
        spot: &Spot,
        entry: u64,
        behind: &Change,
    ) -> Result<Plan, Refusal> {
        let own = spot.addr..spot.addr + spot.len() as u64;
        let end = behind.addr + behind.len as u64;
        if behind.addr != own.end || !module.is_original(&own) || self.owned.overlaps(&own) {
            return Err(Refusal::Overlap);
        }
        let original = [&spot.original[..spot.len()], &behind.to[..behind.len]].concat();
        let spot = Spot {
            addr: spot.addr,
            displaced: spot.displaced.clone(),
            original,
        };
        for prefixes in 0..spot.len().min(emit::MOST_PREFIXES + 1) {
            if let Some(form) = self.form(&spot, prefixes)
                && spot.addr + form.len() as u64 <= end
                && let Some(plan) = self.land(&spot, &form, entry, own.clone())
            {
                return Ok(plan);
            }
        }
        Err(Refusal::NoMemory)
    }

    /// The plan of a form, if there is room where it may land.
    fn land(&mut self, spot: &Spot, form: &Form, entry: u64, owned: Range<u64>) -> Option<Plan> {
        let (addr, original) = (spot.addr, &spot.original);
        let landing = self
            .arena
            .within(form.window.clone(), emit::LANDING_BYTES)?;
        let Some(jump) = emit::prefixed_jump(original, form.prefixes, addr, landing) else {
            self.forget(landing);
            return None;
        };
        debug_assert_eq!(jump[form.changed..], original[form.changed..form.len()]);
        let head = Change::new(addr, original, &jump[..form.changed]);
        Some(Plan {
            writes: vec![(landing, emit::any_jump(landing, entry))],
            ..Plan::new(Tactic::Pun, head, owned)
        })
    }

    /// The form with so many prefixes that leaves the most choice of landings.
    pub(super) fn form(&self, spot: &Spot, prefixes: usize) -> Option<Form> {
        let (addr, original) = (spot.addr, &spot.original);
        let len = prefixes + JUMP_LEN;
        let tail = original.get(..len)?;
        // Changing one byte is always possible, but leaves one landing only.
        let most = spot.len().min(len);
        // Where it lands is not known yet: any byte of the distance may change.
        let mut other = emit::prefixed_jump(original, prefixes, addr, addr)?;
        for (byte, original) in other.iter_mut().zip(tail).skip(prefixes + 1) {
            *byte = !*original;
        }
        let mut changes = (prefixes + 1..=most).rev();
        let changed =
            changes.find(|n| self.is_possible(&Change::new(addr, original, &other[..*n])))?;
        let chosen = changed - prefixes - 1;
        let mut low = [0_u8; 4];
        low[chosen..].copy_from_slice(&tail[changed..]);
        let behind = addr + len as u64;
        let window = if chosen == low.len() {
            behind.saturating_sub(FARTHEST)..behind.saturating_add(FARTHEST)
        } else {
            let distance = i64::from(i32::from_le_bytes(low));
            let start = behind.wrapping_add_signed(distance);
            start..start.saturating_add(1 << (8 * chosen))
        };
        Some(Form {
            prefixes,
            changed,
            window,
        })
    }
}
