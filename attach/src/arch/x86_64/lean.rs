//! Plans of two neighbours: an instruction that is too short for a jump of its
//! own, and one that helps it. It changes no text.

use super::emit::{self, JUMP_LEN};
use super::plan::{Body, Need, Plan, Planner, Spot};
use crate::error::Refusal;
use crate::module::Module;
use crate::probe::Tactic;
use crate::text::Change;

/// Values of a distance's highest byte that are tried, on either side.
const TRIED_DISTANCES: u8 = 64;
/// Places that are tried for each.
const TRIED_PLACES: i64 = 64;

impl Planner<'_> {
    /// A hook at `addr` whose trampoline the last jump of another leads to: at
    /// `tail`, where the site of `need` goes on with `addr`.
    pub(crate) fn plan_chained(
        &mut self,
        module: &Module,
        addr: u64,
        tail: u64,
        need: Need,
        body: &Body<'_>,
    ) -> Result<Plan, Refusal> {
        let displaced = [self.instruction(module, addr)?];
        let at = self.arena.near(tail, body.room).ok_or(Refusal::NoMemory)?;
        let code = (body.code)(at, &displaced).inspect_err(|_| self.forget(at))?;
        let jumps = emit::near_jump(tail, addr).zip(emit::near_jump(tail, at + body.entry));
        let head = jumps.map(|(now, then)| Change::new(tail, &now, &then));
        let head = head.filter(|head| self.is_possible(head));
        let Some(head) = head else {
            self.forget(at);
            return Err(Refusal::Straddles);
        };
        // No byte of the text changes, nor matters.
        let plan = Plan {
            needs: Some(need),
            ..Plan::new(Tactic::Chain, head, addr..addr)
        };
        Ok(plan.with_code(at, code, &displaced))
    }

    /// Hooks at `addr` and at the instruction behind it, such that the jump of
    /// the first ends in the bytes of the second.
    pub(crate) fn plan_leaning(
        &mut self,
        module: &Module,
        (addr, body): (u64, &Body<'_>),
        (behind, behind_body): (u64, &Body<'_>),
    ) -> Result<(Plan, Plan), Refusal> {
        let spot = self.first_spot(module, addr)?;
        let at = self.arena.near(addr, body.room).ok_or(Refusal::NoMemory)?;
        let code = (body.code)(at, &spot.displaced).inspect_err(|_| self.forget(at))?;
        let Ok((plan, held)) = self.lean(module, &spot, at + body.entry, behind, behind_body)
        else {
            self.forget(at);
            return Err(Refusal::NoMemory);
        };
        let plan = Plan {
            needs: Some(Need {
                addr: behind,
                is_first: true,
            }),
            ..plan
        };
        Ok((plan.with_code(at, code, &spot.displaced), held))
    }

    fn lean(
        &mut self,
        module: &Module,
        spot: &Spot,
        entry: u64,
        behind: u64,
        body: &Body<'_>,
    ) -> Result<(Plan, Plan), Refusal> {
        // As it comes.
        let held = self.plan(module, behind, body)?;
        if let Ok(plan) = self.pun_before(module, spot, entry, &held.head) {
            return Ok((plan, held));
        }
        for (at, _) in &held.writes {
            self.forget(*at);
        }
        let support = self.first_spot(module, behind)?;
        // Bytes of the jump behind that are the end of this one's.
        let shared = JUMP_LEN.saturating_sub(spot.len());
        if support.len() < JUMP_LEN || shared < 2 {
            return Err(Refusal::NoMemory);
        }
        let at = self
            .arena
            .near(behind, body.room)
            .ok_or(Refusal::NoMemory)?;
        let code = (body.code)(at, &support.displaced).inspect_err(|_| self.forget(at))?;
        let highest = (0..TRIED_DISTANCES).flat_map(|n| [n + 1, u8::MAX - n]);
        for highest in highest {
            let Some((landing, jump)) = self.jump_with(&support, shared - 2, highest, at) else {
                continue;
            };
            let head = Change::new(behind, &support.original, &jump);
            if !self.is_possible(&head) {
                self.forget(landing);
                break;
            }
            let Ok(plan) = self.pun_before(module, spot, entry, &head) else {
                self.forget(landing);
                continue;
            };
            let owned = behind..behind + JUMP_LEN as u64;
            let held = Plan {
                writes: vec![(landing, emit::any_jump(landing, at + body.entry))],
                ..Plan::new(Tactic::Jump, head, owned)
            };
            return Ok((plan, held.with_code(at, code, &support.displaced)));
        }
        self.forget(at);
        Err(Refusal::NoMemory)
    }

    /// A jump over `support` whose distance has `value` in its byte `index`, and
    /// where it lands, near `near` if it can.
    fn jump_with(
        &mut self,
        support: &Spot,
        index: usize,
        value: u8,
        near: u64,
    ) -> Option<(u64, [u8; JUMP_LEN])> {
        let size = 1_i64 << (8 * index);
        let period = size << 8;
        let behind = support.addr + JUMP_LEN as u64;
        let distance = near.wrapping_sub(behind) as i64;
        let base = distance.div_euclid(period) * period + i64::from(value) * size;
        // Room comes after what was given away last.
        let places = (0..TRIED_PLACES).flat_map(|n| [n, -n - 1]);
        for place in places {
            let start = behind.wrapping_add_signed(base + place * period);
            let window = start..start.saturating_add(size as u64);
            let Some(landing) = self.arena.within(window, emit::LANDING_BYTES) else {
                continue;
            };
            match emit::near_jump(support.addr, landing) {
                Some(jump) => return Some((landing, jump)),
                None => self.forget(landing),
            }
        }
        None
    }
}
