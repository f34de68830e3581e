//! Plans of two neighbours: an instruction that is too short for a jump of its
//! own, and one that helps it. It changes no text.

use super::emit::{self, JUMP_LEN};
use super::plan::{Body, Need, Plan, Planner, Spot};
use super::pun::Form;
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

    /// Instructions for [`Planner::plan_leaning`], best first.
    pub(crate) fn leaning_spots(&self, module: &Module, addr: u64) -> Result<Vec<Spot>, Refusal> {
        let mut spots = vec![self.first_spot(module, addr)?];
        spots.extend(self.later_spots(module, addr));
        spots.retain(|spot| spot.len() < JUMP_LEN);
        Ok(spots)
    }

    /// Hooks at `addr`, by a jump at `spot`, and at the instruction behind that,
    /// such that the jump of the first ends in the bytes of the second.
    pub(crate) fn plan_leaning(
        &mut self,
        module: &Module,
        (addr, spot, body): (u64, &Spot, &Body<'_>),
        behind_body: &Body<'_>,
    ) -> Result<(Plan, Plan), Refusal> {
        let behind = spot.behind().ok_or(Refusal::NoRoom)?;
        let at = self.arena.near(addr, body.room).ok_or(Refusal::NoMemory)?;
        let code = (body.code)(at, &spot.displaced).inspect_err(|_| self.forget(at))?;
        let Ok((plan, held)) = self.lean(module, spot, at + body.entry, behind, behind_body) else {
            self.forget(at);
            return Err(Refusal::NoMemory);
        };
        let plan = Plan {
            needs: Some(Need {
                addr: behind,
                is_first: true,
            }),
            owned: addr..plan.owned.end,
            ..plan
        };
        Ok((plan.with_code(at, code, &spot.displaced), held))
    }

    /// The same, where the second is a site already, with a jump at `head`.
    pub(crate) fn plan_leaning_on(
        &mut self,
        module: &Module,
        (addr, spot, body): (u64, &Spot, &Body<'_>),
        behind: u64,
        head: &Change,
    ) -> Result<Plan, Refusal> {
        // Its jump may be elsewhere.
        if head.addr != behind {
            return Err(Refusal::Overlap);
        }
        let at = self.arena.near(addr, body.room).ok_or(Refusal::NoMemory)?;
        let code = (body.code)(at, &spot.displaced).inspect_err(|_| self.forget(at))?;
        let plan = self.pun_before(module, spot, at + body.entry, head);
        let plan = plan.inspect_err(|_| self.forget(at))?;
        let plan = Plan {
            needs: Some(Need {
                addr: behind,
                is_first: true,
            }),
            owned: addr..plan.owned.end,
            ..plan
        };
        Ok(plan.with_code(at, code, &spot.displaced))
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
        if let Ok(held) = self.plan(module, behind, body) {
            if held.head.addr == behind
                && let Ok(plan) = self.pun_before(module, spot, entry, &held.head)
            {
                return Ok((plan, held));
            }
            for (at, _) in &held.writes {
                self.forget(*at);
            }
        }
        let support = self.first_spot(module, behind)?;
        let at = self
            .arena
            .near(behind, body.room)
            .ok_or(Refusal::NoMemory)?;
        let code = (body.code)(at, &support.displaced).inspect_err(|_| self.forget(at))?;
        let found = self.lean_on(module, spot, entry, &support, at + body.entry);
        let (plan, held) = found
            .ok_or(Refusal::NoMemory)
            .inspect_err(|_| self.forget(at))?;
        Ok((plan, held.with_code(at, code, &support.displaced)))
    }

    /// Jumps at `spot` and at `support` behind it, to these entries: where the
    /// second lands is chosen such that the first can land, too.
    fn lean_on(
        &mut self,
        module: &Module,
        spot: &Spot,
        entry: u64,
        support: &Spot,
        support_entry: u64,
    ) -> Option<(Plan, Plan)> {
        let forms = 0..support.len().min(emit::MOST_PREFIXES + 1);
        let forms: Vec<Form> = forms.filter_map(|n| self.form(support, n)).collect();
        let mut forms = forms.into_iter();
        forms.find_map(|form| self.lean_on_form(module, spot, entry, support, &form, support_entry))
    }

    fn lean_on_form(
        &mut self,
        module: &Module,
        spot: &Spot,
        entry: u64,
        support: &Spot,
        form: &Form,
        support_entry: u64,
    ) -> Option<(Plan, Plan)> {
        let all = support.addr..support.addr + form.len() as u64;
        if !module.is_original(&all) || self.owned.overlaps(&all) {
            return None;
        }
        // The byte of the second jump that is the first one's highest: one of
        // its distance that may be chosen, or what is before that.
        let highest_at = JUMP_LEN.checked_sub(spot.len() + 1)?;
        let index = highest_at.checked_sub(form.prefixes + 1);
        if highest_at >= form.changed {
            return None;
        }
        let tried = if index.is_some() { TRIED_DISTANCES } else { 1 };
        let tried = (0..tried).flat_map(|n| [n + 1, u8::MAX - n]);
        for highest in tried {
            let Some(landing) = self.land_with(support, form, index, highest, support_entry) else {
                continue;
            };
            let (addr, original) = (support.addr, &support.original);
            let jump = emit::prefixed_jump(original, form.prefixes, addr, landing)?;
            let head = Change::new(addr, original, &jump);
            let plan = self.is_possible(&head).then(|| {
                let plan = self.pun_before(module, spot, entry, &head);
                plan.ok()
            });
            let Some(Some(plan)) = plan else {
                self.forget(landing);
                continue;
            };
            let held = Plan {
                writes: vec![(landing, emit::any_jump(landing, support_entry))],
                ..Plan::new(Tactic::Pun, head, all)
            };
            return Some((plan, held));
        }
        None
    }

    /// Where a jump at `support` may land such that its distance has `value` in
    /// its byte `index`, if one is named; near `near` if it can.
    fn land_with(
        &mut self,
        support: &Spot,
        form: &Form,
        index: Option<usize>,
        value: u8,
        near: u64,
    ) -> Option<u64> {
        let window = &form.window;
        let behind = support.addr + form.len() as u64;
        let Some(index) = index else {
            let near = near.clamp(window.start, window.end)..window.end;
            return self.arena.within(near, emit::LANDING_BYTES);
        };
        let size = 1_i64 << (8 * index);
        let period = size << 8;
        let near = near.clamp(window.start, window.end);
        let distance = near.wrapping_sub(behind) as i64;
        let base = distance.div_euclid(period) * period + i64::from(value) * size;
        // Room comes after what was given away last.
        let places = (0..TRIED_PLACES).flat_map(|n| [n, -n - 1]);
        places.into_iter().find_map(|place| {
            let start = behind.wrapping_add_signed(base + place * period);
            let part = start.max(window.start)..start.saturating_add(size as u64).min(window.end);
            let landing = self.arena.within(part, emit::LANDING_BYTES)?;
            let reaches = emit::near_jump(behind - JUMP_LEN as u64, landing).is_some();
            if !reaches {
                self.forget(landing);
            }
            reaches.then_some(landing)
        })
    }
}
