//! What a full table evicts: the clock, or second chance, algorithm. A hand
//! goes round all elements; one that a program looked up since the hand last
//! came by stays until the next round, any other goes. It knows no key.
//!
//! The kernel keeps lists of used and unused elements per CPU and in common
//! (kernel/bpf/bpf_lru_list.c), which nobody could mend after a kill. The
//! hand is a counter that any value serves.

use shm::sync::AtomicU64;
use shm::sync::Ordering::Relaxed;

use super::element::{Element, Stock};
use super::layout::header;
use super::pool::Held;
use super::table::{Steps, Table};

/// A program has looked the element up since the hand came by.
const LOOKED_UP: u32 = 1 << 31;
/// The other bits: the round in which the element was inserted.
const ROUND: u32 = LOOKED_UP - 1;

/// Elements in a row that may have a second chance; then the next one goes,
/// whatever it is, so that an insertion takes bounded time.
const CHANCES: u64 = 4096;
/// Rounds of the hand, and elements, before an insertion fails because all are
/// in the hands of others, or nonsense.
const ROUNDS: u64 = 64;
const MOST: u64 = 1 << 17;

/// Notes that a program looked an element up.
#[inline]
pub(super) fn mark_used(element: Element<'_>) {
    let used = element.used().load(Relaxed);
    // Reading first keeps the line shared between those who look up.
    if used & LOOKED_UP == 0 {
        element.used().store(used | LOOKED_UP, Relaxed);
    }
}

impl Table {
    fn hand(&self) -> Option<&AtomicU64> {
        self.pool.region.u64_at(header::OWN)
    }

    /// The round that the hand is in; 0 while the table fills for the first
    /// time.
    fn round(&self, hand: u64) -> u32 {
        match hand {
            0 => 0,
            _ => (hand / self.pool.layout.count) as u32 % ROUND + 1,
        }
    }

    /// Notes when an element was inserted: the hand does not take what came
    /// behind it in the same round.
    pub(super) fn note_birth(&self, element: Element<'_>) {
        let hand = self.hand().map_or(0, |hand| hand.load(Relaxed));
        element.used().store(self.round(hand), Relaxed);
    }

    /// A free element, for which another entry may have to go.
    pub(super) fn take_or_evict(&self, start: u32) -> Option<Held<'_>> {
        let count = self.pool.layout.count;
        let mut chances = CHANCES;
        let mut steps = self.steps(ROUNDS);
        let mut held = self.take_now(Stock::Regular, start);
        for step in 0..count.saturating_mul(ROUNDS).min(MOST) {
            if held.is_some() || steps.are_over() {
                break;
            }
            // After a whole round without success, see whose hands they are in.
            let desperate = step > count.min(MOST / 2);
            held = self.turn(&mut chances, desperate, &mut steps);
            if held.is_none() && (desperate || step % count == 0) {
                held = self.take_now(Stock::Regular, start);
            }
        }
        held
    }

    /// Moves the hand by one element: what came free by that.
    fn turn(&self, chances: &mut u64, desperate: bool, steps: &mut Steps) -> Option<Held<'_>> {
        let hand = self.hand()?;
        let at = hand.fetch_add(1, Relaxed);
        let number = (at % self.pool.layout.count) as u32 + 1;
        let element = self.pool.element(number)?;
        let used = element.used().load(Relaxed);
        let young = used != 0 && used & ROUND == self.round(at.max(1));
        if *chances > 0 && (used & LOOKED_UP != 0 || young) {
            *chances -= 1;
            element.used().store(0, Relaxed);
            return None;
        }
        let held = self.evict(element, steps);
        if held.is_none() && desperate {
            self.rescue(element, steps);
        }
        held
    }
}
