//! Planning by a recipe: the jump is known to fit in a certain way, so nothing
//! but the bytes themselves is looked at. It knows no process and no file.

use super::super::decode::First;
use super::super::plan::{Body, Plan, Planner, Spot};
use crate::error::Refusal;
use crate::module::Module;
use crate::probe::Tactic;
use crate::syscalls::memo::{JUMP, Recipe};

impl Planner<'_> {
    /// Plans a hook at `addr` as it was planned before, in another process.
    pub(crate) fn replay(
        &mut self,
        module: &Module,
        addr: u64,
        recipe: &Recipe,
        body: &Body<'_>,
    ) -> Result<Plan, Refusal> {
        let spot = self.first_spot(module, addr)?;
        let at = self.arena.near(addr, body.room).ok_or(Refusal::NoMemory)?;
        let fitted = self.refit(module, &spot, recipe, at + body.entry);
        let planned = fitted.and_then(|plan| {
            let code = (body.code)(at, &spot.displaced)?;
            Ok(plan.with_code(at, code, &spot.displaced))
        });
        planned.inspect_err(|_| self.forget(at))
    }

    fn refit(
        &mut self,
        module: &Module,
        spot: &Spot,
        recipe: &Recipe,
        entry: u64,
    ) -> Result<Plan, Refusal> {
        let dead = || {
            let (distance, bytes) = recipe.dead?;
            let start = spot.addr.checked_add_signed(distance.into())?;
            let is_there = module.original(start, JUMP)? == bytes;
            is_there.then(|| start..start + JUMP as u64)
        };
        let plan = match recipe.tactic {
            Tactic::Jump => self.jump(spot, entry),
            Tactic::Short => dead().and_then(|dead| self.over_gap(module, spot, entry, &dead)),
            Tactic::Padding => dead().and_then(|dead| self.through_gap(module, spot, entry, &dead)),
            Tactic::Pun => return self.pun(module, spot, entry),
            _ => None,
        };
        plan.ok_or(Refusal::NoRoom)
    }
}

/// The recipe of a plan for the system call at `call` and the instructions
/// before it, nearest first.
pub(crate) fn recipe(module: &Module, plan: &Plan, call: u64, before: &[u64]) -> Option<Recipe> {
    let start = plan.owned.start;
    let back = match before.iter().position(|addr| *addr == start) {
        Some(index) => index + 1,
        None if start == call => 0,
        None => return None,
    };
    let dead = match (plan.tactic, &plan.padding) {
        (Tactic::Padding, Some(padding)) => Some(padding.addr),
        (Tactic::Short, _) => {
            let bytes = module.original(start, 15)?;
            Some(First::decode(bytes, start).ok()?.next())
        }
        (Tactic::Jump | Tactic::Pun, None) => None,
        _ => return None,
    };
    let dead = match dead {
        Some(at) => {
            let distance = i16::try_from(at.wrapping_sub(start) as i64).ok()?;
            let bytes = module.original(at, JUMP)?;
            Some((distance, bytes.try_into().ok()?))
        }
        None => None,
    };
    Some(Recipe {
        tactic: plan.tactic,
        back: u8::try_from(back).ok()?,
        dead,
    })
}
