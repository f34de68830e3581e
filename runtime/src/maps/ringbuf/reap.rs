//! What is done for producers that were killed while they held a record: it
//! is discarded, so that the reader goes on. It knows no reader.

use shm::sync::Ordering::{Acquire, Relaxed, SeqCst};

use super::claims::{Hold, Seen};
use super::header::{CLAIMS, HEADER, Header};
use super::{Ring, own, position};

/// Least time between two searches by producers that find the ring full, ns.
const REAP_EVERY_NS: u64 = 20_000_000;
/// Gaps closed at a time; each is a producer killed between two instructions.
const GAPS: u64 = CLAIMS;

impl Ring {
    /// Discards the records of dead producers. `true` if there were any.
    pub fn reap_dead(&self) -> bool {
        let mut found = false;
        for number in 0..CLAIMS {
            if let Some(seen) = self.claims.see(number)
                && let Some(hold) = seen.hold
                && !seen.alive()
            {
                found = true;
                self.discard_busy(&seen, hold);
            }
        }
        if found {
            self.close_gaps();
            self.bury();
        }
        found
    }

    /// [`Ring::reap_dead`], unless someone did it just now.
    pub(super) fn reap_if_due(&self) -> bool {
        let last = self.own(own::LAST_REAP);
        let now = shm::sys::clock_ns(libc::CLOCK_MONOTONIC);
        let before = last.load(Relaxed);
        // A time in the future is nonsense that someone wrote.
        let due = before > now || now - before >= REAP_EVERY_NS;
        due && last.compare_exchange(before, now, Relaxed, Relaxed).is_ok() && self.reap_dead()
    }

    /// Discards the record whose header a dead producer had written, and leaves
    /// one that was done.
    fn discard_busy(&self, seen: &Seen, hold: Hold) {
        let word = self.header(hold.position);
        let header = Header(word.load(Acquire));
        let its_own = self.tagged(header, hold.position) && header.claim() == seen.number;
        let passed = self.producer().load(Acquire).wrapping_sub(hold.position) as i64 > 0;
        if !its_own || header.is_left() || passed {
            return;
        }
        let done = match header.is_busy() {
            true => header.done(true),
            false => header,
        };
        let _ = word.compare_exchange(header.0, done.left(false).0, SeqCst, Relaxed);
    }

    /// Writes the headers that dead producers had not written, where these
    /// hold back `producer_pos`.
    fn close_gaps(&self) {
        for _ in 0..GAPS {
            self.advance();
            let (front, reserved) = (
                self.producer().load(SeqCst),
                position(self.reserved().load(SeqCst)),
            );
            let left = reserved.wrapping_sub(front);
            if left == 0 || left > self.size {
                return;
            }
            if !self.close_gap(front, left) {
                return;
            }
        }
    }

    /// Closes the gap at `front`, if whoever reserved it is dead.
    fn close_gap(&self, front: u64, left: u64) -> bool {
        let word = self.header(front);
        let old = word.load(SeqCst);
        if self.tagged(Header(old), front) {
            // Else it has an owner that lives.
            return Header(old).is_left();
        }
        let mut best: Option<(Seen, Hold)> = None;
        for number in 0..CLAIMS {
            let Some(seen) = self.claims.see(number) else {
                continue;
            };
            let Some(hold) = seen.hold.filter(|hold| hold.position == front) else {
                continue;
            };
            if seen.alive() {
                // It is the owner, or will soon say that it is elsewhere.
                return false;
            }
            let fits = hold.len >= HEADER && hold.len <= left && hold.len.is_multiple_of(8);
            // Several may have tried; it was one after whom the next record
            // begins.
            let surely = hold.certain
                || self.begins_at(front.wrapping_add(hold.len), front.wrapping_add(left));
            if fits && (best.is_none() || surely) {
                best = Some((seen, hold));
            }
        }
        let Some((seen, hold)) = best else {
            return false;
        };
        let size = (hold.len - HEADER) as u32;
        let header = Header::busy(size, front, self.log2_size, seen.number);
        let header = header.done(true).left(false);
        word.compare_exchange(old, header.0, SeqCst, Relaxed)
            .is_ok()
    }

    /// Does a record, or what is not reserved yet, begin at `position`?
    fn begins_at(&self, position: u64, reserved: u64) -> bool {
        if position == reserved {
            return true;
        }
        self.tagged(Header(self.header(position).load(Acquire)), position)
    }

    /// Releases the claims of dead producers that no gap needs any more.
    pub(super) fn bury(&self) {
        for number in 0..CLAIMS {
            let Some(seen) = self.claims.see(number) else {
                continue;
            };
            if seen.alive() {
                continue;
            }
            let open = seen.hold.is_some_and(|hold| {
                // Read anew: what was reserved after the owner's death was not
                // reserved by it.
                let behind = |end: u64| end.wrapping_sub(hold.position) as i64 > 0;
                behind(position(self.reserved().load(SeqCst)))
                    && !behind(self.producer().load(SeqCst))
            });
            if !open {
                self.claims.bury(&seen);
            }
        }
    }
}
