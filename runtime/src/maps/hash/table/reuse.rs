//! Elements for what comes into the table: free ones, those of deleted keys,
//! and what killed processes held.

use core::cell::Cell;
use shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use shm::sync::looks;

use super::super::element::{Element, Link, Phase, State, Stock};
use super::super::layout::header;
use super::super::pool::{Held, Reachable, TRIES};
use super::{Steps, Table};
use crate::thread;

/// Least time between two scans by operations that find the table full, in
/// ns: a full table must not cost a scan for each insertion.
const SCAN_EVERY_NS: u64 = 1_000_000_000;

/// Elements of lists that a scan may look at for each element.
const SCAN_ROUNDS: u64 = 16;

/// Elements in the hands of others that a search for a free one remembers, to
/// tell of them again.
const REMEMBERED: usize = 8;

/// How often an element is looked at again that changes meanwhile.
const LOOKS: u32 = looks(64);

/// What an element is for one who looks for a free one.
enum Found<'t> {
    Free(Held<'t>),
    /// It will be free.
    InHands,
    Nothing,
}

impl Table {
    /// A free element; `None` when all are in use.
    pub(super) fn take(&self, stock: Stock, start: u32) -> Option<Held<'_>> {
        if let Some(held) = self.take_now(stock, start) {
            return Some(held);
        }
        if self.scan_is_due() && self.reclaim() {
            return self.take_now(stock, start);
        }
        None
    }

    /// The same without a scan.
    pub(in super::super) fn take_now(&self, stock: Stock, start: u32) -> Option<Held<'_>> {
        let mut in_hands = [None; REMEMBERED];
        let mut met = 0;
        let mut steps = self.steps(1);
        let mut held = None;
        for _ in 0..TRIES {
            let Some(element) = self.pool.candidate(stock, start) else {
                break;
            };
            held = self.pool.hold(element, stock);
            if held.is_some() {
                break;
            }
            match self.reuse(element, stock, &mut steps) {
                Found::Free(free) => {
                    held = Some(free);
                    break;
                }
                Found::InHands => {
                    if let Some(slot) = in_hands.get_mut(met) {
                        *slot = Some(element);
                    }
                    met += 1;
                }
                Found::Nothing => {}
            }
        }
        for element in in_hands.into_iter().flatten() {
            self.pool.hint(element, stock);
        }
        held
    }

    /// Takes an element that is of no use any more where it is.
    fn reuse<'t>(&'t self, element: Element<'t>, stock: Stock, steps: &mut Steps) -> Found<'t> {
        for _ in 0..LOOKS {
            let state = State(element.state().load(Acquire));
            let next = Link(element.next().load(SeqCst));
            if next.is_live() || next.stock() != stock || next.holder() != state.generation() {
                return Found::Nothing;
            }
            match state.phase() {
                Phase::Live | Phase::Held(_) => {}
                Phase::Claimed if thread::exists(state.owner() as i32) => return Found::InHands,
                Phase::Claimed => {
                    let mine = state.claimed_by(thread::ids().pid as u32);
                    if element
                        .state()
                        .compare_exchange(state.0, mine.0, AcqRel, Relaxed)
                        .is_err()
                    {
                        continue;
                    }
                    // It may have brought the key back before it died.
                    if Link(element.next().load(Acquire)).is_live() {
                        element.state().store(mine.live().0, Release);
                        return Found::Nothing;
                    }
                    return self.free_claimed(element, mine, stock, steps);
                }
                _ => return Found::Nothing,
            }
            if let Ok(claimed) = self.pool.claim(element, state) {
                return self.free_claimed(element, claimed, stock, steps);
            }
        }
        Found::InHands
    }

    /// Takes an element out that this process has claimed, whether its key is
    /// there or not.
    fn free_claimed<'t>(
        &'t self,
        element: Element<'t>,
        claimed: State,
        stock: Stock,
        steps: &mut Steps,
    ) -> Found<'t> {
        let mut next = Link(element.next().load(Acquire));
        for _ in 0..LOOKS {
            if next.marked() {
                break;
            }
            let marked = next.mark(Stock::Regular);
            let word = element.next();
            match word.compare_exchange(next.0, marked.0, AcqRel, Acquire) {
                Ok(_) => next = marked,
                Err(now) => next = Link(now),
            }
        }
        let hash = element.hash().load(Relaxed);
        if !next.marked() || !self.sweep(hash, steps) {
            element.state().store(claimed.live().0, Release);
            return Found::InHands;
        }
        let held = self.pool.renew(element, claimed.generation());
        if held.stock != stock {
            self.pool.give_back(held);
            return Found::Nothing;
        }
        Found::Free(held)
    }

    /// Takes an entry out that somebody else chose: its element, if that is
    /// free now.
    pub(in super::super) fn evict<'t>(
        &'t self,
        element: Element<'t>,
        steps: &mut Steps,
    ) -> Option<Held<'t>> {
        let state = State(element.state().load(Acquire));
        let next = Link(element.next().load(Acquire));
        // What is held may not be linked yet.
        if state.phase() != Phase::Live || next.marked() || next.holder() != state.generation() {
            return None;
        }
        let claimed = self.pool.claim(element, state).ok()?;
        match self.free_claimed(element, claimed, Stock::Regular, steps) {
            Found::Free(held) => Some(held),
            Found::InHands | Found::Nothing => None,
        }
    }

    /// Finishes what a dead process has begun with an element: whether there
    /// may be a free one now.
    pub(in super::super) fn rescue(&self, element: Element<'_>, steps: &mut Steps) -> bool {
        let state = State(element.state().load(Acquire));
        let next = Link(element.next().load(Acquire));
        // It was linked, and is not an entry any more.
        let linked = next.holder() == state.generation() && !next.is_live();
        match state.phase() {
            Phase::Claimed if thread::exists(state.owner() as i32) => false,
            Phase::Claimed if next.is_live() => {
                let live = state.live().0;
                let word = element.state();
                let _ = word.compare_exchange(state.0, live, AcqRel, Relaxed);
                false
            }
            Phase::Live | Phase::Held(_) if linked && next.is_absent() => {
                self.pool.hint(element, Stock::Regular);
                true
            }
            Phase::Live | Phase::Held(_) | Phase::Claimed if linked => {
                let stock = next.stock();
                match self.reuse(element, stock, steps) {
                    Found::Free(held) => {
                        self.pool.give_back(held);
                        true
                    }
                    Found::InHands | Found::Nothing => false,
                }
            }
            Phase::Live | Phase::Claimed => false,
            _ => self.with_steps(steps, |reachable| self.pool.rescue(element, reachable)),
        }
    }

    /// Calls `body` with what says whether elements are linked, and which may
    /// take so many steps in all.
    fn with_steps(&self, steps: &mut Steps, body: impl FnOnce(&Reachable<'_>) -> bool) -> bool {
        let left = Cell::new(steps.0);
        let done = body(&|hash, link| {
            let mut steps = Steps(left.get());
            let found = self.is_reachable(hash, link, &mut steps);
            left.set(steps.0);
            found
        });
        steps.0 = left.get();
        done
    }

    fn scan_is_due(&self) -> bool {
        let Some(last) = self.pool.region.u64_at(header::LAST_SCAN) else {
            return false;
        };
        let now = shm::sys::clock_ns(libc::CLOCK_MONOTONIC);
        let before = last.load(Relaxed);
        // A time in the future is nonsense that someone wrote.
        (before > now || before == 0 || now - before >= SCAN_EVERY_NS)
            && last.compare_exchange(before, now, Relaxed, Relaxed).is_ok()
    }

    /// Takes back what killed processes held; `true` if an element came free.
    pub fn reclaim(&self) -> bool {
        let mut steps = self.steps(SCAN_ROUNDS);
        let mut freed = false;
        self.pool
            .each_used(&mut |element| freed |= self.rescue(element, &mut steps));
        freed
    }
}
