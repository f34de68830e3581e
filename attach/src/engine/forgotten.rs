//! Sites that made room for others: their trampolines stay mapped for ever, so
//! they are used again when there is room for them. It knows no instruction.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ladder::Batch;
use super::{Record, State};
use crate::probe::Tactic;
use crate::site::Site;

/// One that nobody needed.
struct Forgotten {
    record: Record,
    /// The site that it needs, which has to be the same.
    needed: Option<*const Site>,
}

/// All of them, by address.
#[derive(Default)]
pub(super) struct ForgottenSites(BTreeMap<u64, Vec<Forgotten>>);

impl ForgottenSites {
    pub(super) const fn new() -> ForgottenSites {
        ForgottenSites(BTreeMap::new())
    }

    /// Text that is not mapped any more.
    pub(super) fn forget_range(&mut self, range: &Range<u64>) {
        self.0.retain(|addr, _| !range.contains(addr));
    }
}

impl State {
    /// Takes sites away that have neither probes nor a jump.
    pub(super) fn forget(&mut self, idle: &[u64]) {
        // First what all of them need, which may be among them.
        let needed: Vec<_> = idle.iter().map(|addr| self.site_needed(*addr)).collect();
        for (addr, needed) in idle.iter().zip(needed) {
            let Some(record) = self.sites.remove(addr) else {
                continue;
            };
            self.owned.remove(&record.owned);
            if record.tactic != Tactic::Breakpoint {
                let all = self.forgotten.0.entry(*addr).or_default();
                all.push(Forgotten { record, needed });
            }
        }
    }

    /// Has a site at `addr` again that was there before, if one fits.
    pub(super) fn revive(&mut self, addr: u64, batch: &Batch<'_>) -> bool {
        let count = self.forgotten.0.get(&addr).map_or(0, Vec::len);
        (0..count).any(|at| self.revive_one(addr, at, batch))
    }

    fn revive_one(&mut self, addr: u64, at: usize, batch: &Batch<'_>) -> bool {
        let Some(forgotten) = self.forgotten.0.get(&addr).and_then(|all| all.get(at)) else {
            return false;
        };
        let owned = forgotten.record.owned.clone();
        // What it displaces ends with the instruction that becomes a jump.
        let jump = forgotten.record.head.addr;
        let displaced = addr + 1..if owned.contains(&jump) {
            jump + 1
        } else {
            addr + 1
        };
        let displaces_wanted = batch.wanted.range(displaced).next().is_some();
        if self.is_taken(&owned) || displaces_wanted {
            return false;
        }
        if let Some(need) = forgotten.record.needs {
            let Some(needed) = forgotten.needed else {
                return false;
            };
            if !self.has_site(need.addr, needed) && !self.revive_site(need.addr, needed, batch) {
                return false;
            }
        }
        // What was revived may be where this one was.
        if self.is_taken(&owned) {
            return false;
        }
        let Some(all) = self.forgotten.0.get_mut(&addr) else {
            return false;
        };
        let Forgotten { record, .. } = all.swap_remove(at);
        self.owned.insert(owned);
        self.sites.insert(addr, record);
        true
    }

    /// Whether others rely on bytes that a site owns, if it owns any.
    fn is_taken(&self, owned: &Range<u64>) -> bool {
        !owned.is_empty() && self.owned.overlaps(owned)
    }

    /// The same for one certain site.
    fn revive_site(&mut self, addr: u64, site: *const Site, batch: &Batch<'_>) -> bool {
        let is_it = |forgotten: &Forgotten| std::ptr::eq(forgotten.record.site, site);
        let all = self.forgotten.0.get(&addr);
        let at = all.and_then(|all| all.iter().position(is_it));
        let is_free = !self.sites.contains_key(&addr);
        is_free && at.is_some_and(|at| self.revive_one(addr, at, batch))
    }

    fn has_site(&self, addr: u64, site: *const Site) -> bool {
        let record = self.sites.get(&addr);
        record.is_some_and(|record| std::ptr::eq(record.site, site))
    }

    fn site_needed(&self, addr: u64) -> Option<*const Site> {
        let need = self.sites.get(&addr)?.needs?;
        let needed = self.sites.get(&need.addr)?;
        Some(std::ptr::from_ref(needed.site))
    }
}
