//! Text that is moved: hooks stay with their addresses, so they are taken back
//! before, on the thread that makes the call, and put back where nothing came
//! of it. It knows no system call.

use core::ops::Range;
use std::collections::BTreeSet;

use super::{Engine, STATE, State};
use crate::arch::sys;
use crate::leaving;
use crate::mappings;
use crate::text::{self, Change, Outcome};

/// A jump in text that moves may end outside, and lean on another there.
const AROUND: u64 = 4096;

fn around(range: &Range<u64>) -> Range<u64> {
    range.start.saturating_sub(AROUND)..range.end.saturating_add(AROUND)
}

/// Makes a change; whether it is made.
fn make(change: Change) -> bool {
    let can_step = sys::sync_cores().is_ok();
    // SAFETY: callers hold the lock. The planner proved each change to be one
    // instruction's, and its text is mapped, or was a moment ago.
    (unsafe { text::change_moving(&change, can_step) }) == Outcome::Done
}

impl Engine {
    /// Memory in `range` is about to be moved: if it is text, it is as it was
    /// when this returns, and stays so until [`Engine::text_has_moved`]. Whether
    /// anything was hooked there. Reachable from trampolines; takes the
    /// engine's lock only where text was hooked.
    pub fn text_moves(range: &Range<u64>) -> bool {
        leaving::begin(range);
        if !leaving::may_be_changed(&around(range)) {
            return false;
        }
        let Some(mut state) = STATE.lock_soon() else {
            return false;
        };
        let any = state.take_back(&around(range));
        if any {
            leaving::had_hooks(range);
        }
        any
    }

    /// It was moved, or was not: `is_there` says whether its mapping is where
    /// it was. Whether anything was hooked there before.
    pub fn text_has_moved(range: &Range<u64>, is_there: bool) -> bool {
        let any = leaving::end(range);
        if any
            && is_there
            && let Some(mut state) = STATE.lock_soon()
        {
            state.put_back(&around(range));
        }
        any
    }
}

impl State {
    /// Gives text its bytes. First those that lean on others.
    fn take_back(&mut self, range: &Range<u64>) -> bool {
        let mut any = false;
        let mut from = range.start;
        while let Some((addr, moving)) = self.syscalls.next_moving(&(from..range.end), false) {
            *moving.is_away = true;
            *moving.is_patched = !make(moving.change);
            (any, from) = (true, addr + 1);
        }
        for _ in 0..MOST_LEVELS {
            let mut from = range.start;
            while let Some((addr, head)) = self.next_site(&(from..range.end), false) {
                if make(head.reversed()) {
                    self.changed(addr, false);
                    if let Some(record) = self.sites.get_mut(&addr) {
                        record.is_away = true;
                    }
                }
                (any, from) = (true, addr + 1);
            }
        }
        any
    }

    fn put_back(&mut self, range: &Range<u64>) {
        let mut from = range.start;
        while let Some((addr, moving)) = self.syscalls.next_moving(&(from..range.end), true) {
            if make(moving.change) {
                (*moving.is_away, *moving.is_patched) = (false, true);
            }
            from = addr + 1;
        }
        for _ in 0..MOST_LEVELS {
            let mut from = range.start;
            while let Some((addr, head)) = self.next_site(&(from..range.end), true) {
                if make(head) {
                    self.changed(addr, true);
                    if let Some(record) = self.sites.get_mut(&addr) {
                        record.is_away = false;
                    }
                }
                from = addr + 1;
            }
        }
    }

    /// The first site in `range` that can be taken back, or put back, now.
    fn next_site(&self, range: &Range<u64>, is_away: bool) -> Option<(u64, Change)> {
        let is_due = |record: &super::Record| match is_away {
            false => record.is_patched && record.leaning == 0,
            true => record.is_away && !record.is_patched && self.has_what_it_leans_on(record),
        };
        let mut sites = self.sites.range(range.clone());
        let found = sites.find(|(_, record)| is_due(record));
        found.map(|(addr, record)| (*addr, record.head))
    }

    fn has_what_it_leans_on(&self, record: &super::Record) -> bool {
        let needed = record.needs.filter(|need| need.is_first);
        needed.is_none_or(|need| {
            self.sites
                .get(&need.addr)
                .is_some_and(|site| site.is_patched)
        })
    }

    /// Forgets sites whose text is not what it was. A copy may be there, or be
    /// elsewhere, so none of them runs a probe any more; and where the text is as
    /// we left it, it becomes what it was.
    pub(super) fn forget_sites(&mut self, range: &Range<u64>, can_step: bool) {
        let sites: BTreeSet<u64> = self.sites.range(range.clone()).map(|(a, _)| *a).collect();
        for (_, record) in self.sites.range_mut(range.clone()) {
            record.entry.clear();
            record.exit.clear();
        }
        self.publish(&sites);
        let mappings = mappings::own().unwrap_or_default();
        let is_text = |addr| mappings::holding(&mappings, addr).is_some_and(|m| m.is_text);
        let is_there = |addr: &u64| {
            let head = self.sites.get(addr).map(|record| record.head.addr);
            head.is_some_and(|head| is_text(head) && is_text(head + JUMP - 1))
        };
        let there = sites.iter().copied().filter(is_there).collect();
        self.unpatch(&there, can_step);
        for addr in sites {
            self.sites.remove(&addr);
        }
    }

    /// Forgets system calls whose text was moved; others may be there now.
    pub(super) fn forget_moved(&mut self) {
        for head in self.syscalls.forget_moved() {
            self.owned.remove_starting_in(&(head..head + 1));
        }
    }
}

/// No head is longer.
const JUMP: u64 = 5;
/// How many sites may lean on each other.
const MOST_LEVELS: usize = 8;
