//! What a system call under way was given in place of its own argument, found
//! again by the stack pointer behind it. Reachable from trampolines: no
//! allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicU64, Ordering};

/// Words of memory in a slot.
pub(super) const WORDS: usize = 6;
/// Slots, and how many of them an address may be in.
const SLOTS: usize = 1024;
const NEAR: usize = 16;

/// One system call under way. Only its thread touches it.
pub(super) struct Slot {
    /// The program's stack pointer; 0 when free.
    sp: AtomicU64,
    /// The call's number.
    pub(super) nr: AtomicU64,
    /// The argument that was replaced by the address of `words`, if one was.
    pub(super) original: AtomicU64,
    /// What else its end has to know.
    pub(super) note: AtomicU64,
    /// What the kernel reads, also when it restarts the call.
    pub(super) words: [AtomicU64; WORDS],
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        sp: AtomicU64::new(0),
        nr: AtomicU64::new(0),
        original: AtomicU64::new(0),
        note: AtomicU64::new(0),
        words: [const { AtomicU64::new(0) }; WORDS],
    }
}; SLOTS];

fn near(sp: u64) -> impl Iterator<Item = &'static Slot> {
    let start = (sp.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % SLOTS;
    let (before, after) = TABLE.split_at(start);
    after.iter().chain(before).take(NEAR)
}

/// The slot of the call at `sp`.
pub(super) fn find(sp: u64) -> Option<&'static Slot> {
    near(sp).find(|slot| slot.sp.load(Ordering::Relaxed) == sp)
}

/// A slot for the call at `sp`; that of a call which never ended there, for a
/// handler has jumped out of it, is used again. `None` if there are too many.
pub(super) fn take(sp: u64) -> Option<&'static Slot> {
    find(sp).or_else(|| {
        near(sp).find(|slot| {
            let taken = slot
                .sp
                .compare_exchange(0, sp, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok()
        })
    })
}

/// A call begins at `sp` that needs no slot.
pub(super) fn none(sp: u64) {
    if let Some(slot) = find(sp) {
        slot.release();
    }
}

impl Slot {
    /// Address of the first word.
    pub(super) fn address(&self) -> u64 {
        self.words.as_ptr() as u64
    }

    /// Sets a word.
    pub(super) fn put(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The call has ended.
    pub(super) fn release(&self) {
        self.sp.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_finds_its_own_slot() {
        let sps: Vec<u64> = (1..200).map(|n| 0x7ffd_0000_0000 - n * 48).collect();
        for sp in &sps {
            if let Some(slot) = take(*sp) {
                slot.put(0, *sp);
            }
        }
        for sp in &sps {
            let word = |slot: &Slot| slot.words.first().map(|w| w.load(Ordering::Relaxed));
            assert_eq!(find(*sp).and_then(word), Some(*sp));
            let at = |slot: &'static Slot| core::ptr::from_ref(slot) as usize;
            assert_eq!(find(*sp).map(at), take(*sp).map(at));
            none(*sp);
            assert!(find(*sp).is_none());
        }
    }
}
