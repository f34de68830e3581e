//! A process's own place in the roster: what it says there, and what wakes it.
//! It knows no other's.

use shm::sync::{AtomicU32, Ordering, fence};
use std::time::Duration;

use shm::futex;

use super::{FLAG_DETACH, MAX_ERRORS, ProcessId, Roster, roster_flags, slot, slot_at};

/// The calling process's place in the roster. Dropping it does not leave: a
/// forked child holds a copy that is not its own.
pub struct AgentSlot {
    pub(super) roster: Roster,
    pub(super) index: u32,
    pub(super) owner: u64,
}

impl AgentSlot {
    /// Whether the slot is still this process's: false after fork, or when a
    /// confused peer gave it away; then join again.
    pub fn is_mine(&self) -> bool {
        self.roster.owner_word(self.index).load(Ordering::Acquire) == self.owner
    }

    /// The process that joined.
    pub fn process(&self) -> ProcessId {
        ProcessId::unpack(self.owner)
    }

    /// Says that `generation` was followed, with what came of it.
    pub fn ack(&self, generation: u32, hooks: u32, refused: u32, errors: &str) {
        if !self.is_mine() {
            return;
        }
        let roster = &self.roster;
        let base = slot_at(self.index);
        roster
            .word(base + slot::HOOKS)
            .store(hooks, Ordering::Relaxed);
        roster
            .word(base + slot::REFUSED)
            .store(refused, Ordering::Relaxed);
        let version = roster.word(base + slot::ERRORS_VERSION);
        // Odd while the text changes; pairs with the loads in `member`.
        let odd = version.load(Ordering::Relaxed) | 1;
        version.store(odd, Ordering::Relaxed);
        fence(Ordering::Release);
        roster.write_text(base + slot::ERRORS, MAX_ERRORS + 1, errors.as_bytes());
        version.store(odd.wrapping_add(1), Ordering::Release);
        roster
            .word(base + slot::ACKED)
            .store(generation, Ordering::Release);
        roster.acked();
    }

    /// The word this process sleeps on: read it, look at everything, then
    /// [`AgentSlot::sleep`] on what was read. Valid while the slot is.
    pub fn wake_word(&self) -> &AtomicU32 {
        self.roster.word(slot_at(self.index) + slot::WAKE)
    }

    /// Sleeps until the wake word is not `seen`, or for `timeout`; may also
    /// return early.
    pub fn sleep(&self, seen: u32, timeout: Option<Duration>) {
        let word = self.wake_word();
        if word.load(Ordering::Acquire) == seen {
            futex::wait(word, seen, timeout);
        }
    }

    /// Whether `bpftime detach` wants this process to be left alone.
    pub fn detach_requested(&self) -> bool {
        let flags = roster_flags(&self.roster, self.index);
        self.is_mine() && flags & FLAG_DETACH != 0
    }

    /// Gives the slot back.
    pub fn leave(self) {
        self.give_back();
    }

    /// As [`AgentSlot::leave`], for an owner that is being dropped.
    pub(in super::super) fn give_back(&self) {
        self.roster.free(self.index, self.owner);
    }
}
