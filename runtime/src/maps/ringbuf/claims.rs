//! Who is writing which record of a ring buffer: a table of claims that says,
//! when a producer was killed, what it had in its hands. It knows no record's
//! contents.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use shm::{Region, sys};

use super::header::CLAIMS;
use crate::thread::{self, ThreadIds};

/// Bytes of a claim, a cache line.
const CLAIM: u64 = 64;

/// Offsets in a claim.
mod field {
    /// The thread that holds it ([`super::ThreadIds::pid_tgid`]), or 0.
    pub const OWNER: u64 = 0;
    /// Position of its record, with one of the bits below; or 0.
    pub const RECORD: u64 = 8;
    /// Bytes of the record with its header, rounded up.
    pub const LEN: u64 = 16;
}

/// The owner may or may not have reserved the position.
const TRIES: u64 = 1;
/// The owner has reserved the position.
const HOLDS: u64 = 2;

pub(super) struct Claims {
    region: Region,
}

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
    owner: u64,
    pub hold: Option<Hold>,
}

impl Seen {
    /// Does its owner exist?
    pub fn alive(&self) -> bool {
        let ids = ThreadIds::from_pid_tgid(self.owner);
        sys::can_run(ids.pid, ids.tid)
    }
}

impl Claims {
    pub const BYTES: u64 = CLAIMS * CLAIM;

    pub fn new(region: Region) -> Claims {
        Claims { region }
    }

    #[inline]
    fn word(&self, number: u64, field: u64) -> Option<&AtomicU64> {
        self.region.u64_at(number % CLAIMS * CLAIM + field)
    }

    fn set(&self, number: u64, field: u64, value: u64) {
        if let Some(word) = self.word(number, field) {
            word.store(value, Release);
        }
    }

    /// Takes a free claim; `None` when all are held.
    pub fn take(&self) -> Option<Claim<'_>> {
        let ids = thread::ids();
        for step in 0..CLAIMS {
            // Neighbouring thread ids start at different lines.
            let number = (ids.tid as u64).wrapping_add(step) % CLAIMS;
            let owner = self.word(number, field::OWNER)?;
            if owner.load(Relaxed) == 0
                && owner
                    .compare_exchange(0, ids.pid_tgid(), Acquire, Relaxed)
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

    /// Releases claim `number` if its record is the one at `offset` of the
    /// data.
    pub fn release(&self, number: u64, offset: u64, mask: u64) {
        let Some(record) = self.word(number, field::RECORD) else {
            return;
        };
        let record = record.load(Relaxed);
        if record & HOLDS != 0 && record & mask & !7 == offset {
            self.clear(number);
        }
    }

    fn clear(&self, number: u64) {
        self.set(number, field::RECORD, 0);
        self.set(number, field::OWNER, 0);
    }

    /// Claim `number`, if it is held.
    pub fn see(&self, number: u64) -> Option<Seen> {
        let word = |field| Some(self.word(number, field)?.load(Acquire));
        let owner = word(field::OWNER)?;
        let (record, len) = (word(field::RECORD)?, word(field::LEN)?);
        if owner == 0 || word(field::OWNER)? != owner {
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
        if let Some(owner) = self.word(seen.number, field::OWNER) {
            // What the record says no longer matters: the next owner writes
            // it before it reserves.
            let _ = owner.compare_exchange(seen.owner, 0, Release, Relaxed);
        }
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

    pub fn release(&self) {
        self.claims.clear(self.number);
    }
}
