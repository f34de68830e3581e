//! Who is writing which record of a ring buffer: a table of claims that says,
//! when a producer was killed, what it had in its hands. It knows no record's
//! contents.
//!
//! A thread keeps a claim of its own near a place that follows from its id, so
//! that it need not take one for each record. For more than one record at a
//! time, and when those places are other threads', there are claims that are
//! taken and given back.

use shm::Region;
use shm::sync::AtomicU64;
use shm::sync::Ordering::{Acquire, Relaxed, Release};

use super::header::CLAIMS;
use crate::thread::{self, ThreadIds};

/// Bytes of a claim, a cache line.
const CLAIM: u64 = 64;

/// Offsets in a claim.
mod field {
    /// The thread that holds it ([`super::ThreadIds::pid_tgid`]), or 0;
    /// [`super::KEPT`] if it keeps the claim between records.
    pub const OWNER: u64 = 0;
    /// Position of its record, with one of the bits below; or 0.
    pub const RECORD: u64 = 8;
    /// Bytes of the record with its header, rounded up.
    pub const LEN: u64 = 16;
}

/// Set in the owner of a kept claim; process ids are far below.
const KEPT: u64 = 1 << 63;
/// Claims that threads keep: the first ones.
const KEEPABLE: u64 = CLAIMS / 2;
/// Claims that a thread may keep one of.
const PLACES: u64 = 4;

/// The owner may or may not have reserved the position.
const TRIES: u64 = 1;
/// The owner has reserved the position.
const HOLDS: u64 = 2;

pub(super) struct Claims {
    /// Start of `_region`, valid while it lives.
    base: *mut u8,
    _region: Region,
}

// SAFETY: `base` points into `_region`, which may be used from any thread, and
// what lies there is only touched as atomics.
unsafe impl Send for Claims {}
// SAFETY: as above.
unsafe impl Sync for Claims {}

/// A claim of the calling thread.
pub(super) struct Claim<'c> {
    claims: &'c Claims,
    pub number: u64,
}

/// What a claim says of its owner's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub position: u64,
    pub len: u64,
    /// Is it certain that the owner reserved the position?
    pub certain: bool,
}

/// A claim as somebody else reads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub number: u64,
    /// What its word says, with [`KEPT`].
    owner: u64,
    pub hold: Option<Hold>,
}

impl Seen {
    /// Does its owner exist?
    pub fn alive(&self) -> bool {
        ThreadIds::from_pid_tgid(self.owner & !KEPT).can_run()
    }
}

impl Claims {
    pub const BYTES: u64 = CLAIMS * CLAIM;

    /// The claims in `region`; `None` if it is too short.
    pub fn new(region: Region) -> Option<Claims> {
        (region.len() >= Claims::BYTES).then_some(Claims {
            base: region.as_ptr(),
            _region: region,
        })
    }

    #[inline]
    fn word(&self, number: u64, field: u64) -> &AtomicU64 {
        let at = number % CLAIMS * CLAIM + field;
        // SAFETY: `new` saw that the region holds all claims; it is aligned,
        // lives as long as `self`, and its words are only used as atomics.
        unsafe { AtomicU64::from_ptr(self.base.wrapping_add(at as usize).cast()) }
    }

    #[inline]
    fn set(&self, number: u64, field: u64, value: u64) {
        self.word(number, field).store(value, Release);
    }

    /// Takes a free claim; `None` when all are held.
    #[inline]
    pub fn take(&self) -> Option<Claim<'_>> {
        let ids = thread::ids();
        let me = ids.pid_tgid() | KEPT;
        for step in 0..PLACES {
            let number = (ids.tid as u64).wrapping_add(step) % KEEPABLE;
            let owner = self.word(number, field::OWNER).load(Relaxed);
            // Nobody else writes a claim that this thread keeps.
            if owner == me && self.word(number, field::RECORD).load(Relaxed) == 0 {
                return Some(Claim {
                    claims: self,
                    number,
                });
            }
            if owner == me || owner == 0 {
                break;
            }
        }
        self.take_anew(ids)
    }

    #[cold]
    fn take_anew(&self, ids: ThreadIds) -> Option<Claim<'_>> {
        // Neighbouring thread ids start at different lines.
        let tid = ids.tid as u64;
        let me = ids.pid_tgid() | KEPT;
        let place = |step| tid.wrapping_add(step) % KEEPABLE;
        let mine = |step| self.word(place(step), field::OWNER).load(Relaxed) == me;
        let places = if (0..PLACES).any(mine) { 0 } else { PLACES };
        let kept = (0..places).map(|step| (place(step), KEPT));
        let lent = (0..CLAIMS - KEEPABLE).map(|step| {
            let step = tid.wrapping_add(step) % (CLAIMS - KEEPABLE);
            (KEEPABLE + step, 0)
        });
        for (number, kept) in kept.chain(lent) {
            let owner = self.word(number, field::OWNER);
            if owner.load(Relaxed) == 0
                && owner
                    .compare_exchange(0, ids.pid_tgid() | kept, Acquire, Relaxed)
                    .is_ok()
            {
                return Some(Claim {
                    claims: self,
                    number,
                });
            }
        }
        None
    }

    /// Claim `number` and the position of its record, if that is the one at
    /// `offset` of the data.
    #[inline]
    pub fn held(&self, number: u64, offset: u64, mask: u64) -> Option<(Claim<'_>, u64)> {
        let record = self.word(number, field::RECORD).load(Relaxed);
        let claim = Claim {
            claims: self,
            number,
        };
        let its_own = record & HOLDS != 0 && record & mask & !7 == offset;
        its_own.then_some((claim, record & !7))
    }

    #[inline]
    fn clear(&self, number: u64) {
        self.set(number, field::RECORD, 0);
        if number >= KEEPABLE {
            self.set(number, field::OWNER, 0);
        }
    }

    /// Claim `number`, if it is held.
    pub fn see(&self, number: u64) -> Option<Seen> {
        let word = |field| self.word(number, field).load(Acquire);
        let owner = word(field::OWNER);
        let (record, len) = (word(field::RECORD), word(field::LEN));
        if owner == 0 || word(field::OWNER) != owner {
            return None;
        }
        let hold = (record & (TRIES | HOLDS) != 0).then_some(Hold {
            position: record & !7,
            len,
            certain: record & HOLDS != 0,
        });
        Some(Seen {
            number,
            owner,
            hold,
        })
    }

    /// Releases the claim of a dead owner.
    pub fn bury(&self, seen: &Seen) {
        // What the record says no longer matters: the next owner writes it
        // before it reserves.
        let _ = self
            .word(seen.number, field::OWNER)
            .compare_exchange(seen.owner, 0, Release, Relaxed);
    }
}

impl Claim<'_> {
    /// Says what the owner is about to reserve.
    #[inline]
    pub fn tries(&self, position: u64, len: u64) {
        self.claims.set(self.number, field::LEN, len);
        self.claims
            .set(self.number, field::RECORD, position | TRIES);
    }

    /// Says that the owner has reserved it.
    #[inline]
    pub fn holds(&self, position: u64) {
        self.claims
            .set(self.number, field::RECORD, position | HOLDS);
    }

    #[inline]
    pub fn release(&self) {
        self.claims.clear(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        thread::init();
        let path = format!("/dev/shm/bpftime-claims-{}", std::process::id());
        let path = std::ffi::CString::new(path).unwrap();
        let (segment, _fd) = shm::Segment::create(&path, Claims::BYTES).unwrap();
        // SAFETY: a path.
        unsafe { libc::unlink(path.as_ptr()) };
        Claims::new(segment.region(0, Claims::BYTES).unwrap()).unwrap()
    }

    #[test]
    fn a_thread_keeps_one_claim_and_borrows_others() {
        let claims = claims();
        let first = claims.take().unwrap();
        assert!(first.number < KEEPABLE);
        first.tries(64, 24);
        first.holds(64);
        let second = claims.take().unwrap();
        assert!(second.number >= KEEPABLE);
        assert!(claims.held(first.number, 64, 4095).is_some());
        assert!(claims.held(first.number, 72, 4095).is_none());
        second.release();
        assert!(claims.see(second.number).is_none());
        first.release();
        assert!(claims.see(first.number).unwrap().hold.is_none());
        assert_eq!(claims.take().unwrap().number, first.number);
    }

    #[test]
    fn threads_that_ended_take_no_claim_from_others() {
        let claims = claims();
        for _ in 0..2 * KEEPABLE {
            let claim = || claims.take().map(|claim| claim.release());
            assert!(std::thread::scope(|scope| scope
                .spawn(claim)
                .join()
                .unwrap()
                .is_some()));
        }
        let dead = |number: &u64| claims.see(*number).is_some_and(|seen| !seen.alive());
        assert!((0..CLAIMS).filter(dead).count() > 0);
        for number in (0..CLAIMS).filter(dead) {
            claims.bury(&claims.see(number).unwrap());
        }
        assert!(claims.take().unwrap().number < KEEPABLE);
    }
}
