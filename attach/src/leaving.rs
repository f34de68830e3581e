//! Text that may be about to be moved, by mremap(2): its hooks would come
//! along, and their jumps would lead elsewhere. Whoever sees the call says so
//! before it is made, without a lock, and the writer of text asks. It knows no
//! hook; [`crate::Engine::text_moves`] takes hooks back.
//!
//! Each side stores its word before it looks at the other's, so one of the two
//! sees the other: the mover, that hooks are there or are being written, or the
//! writer, that the text moves.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A range; without an end for none.
struct Slot([AtomicU64; 2]);

impl Slot {
    const fn empty() -> Slot {
        Slot([const { AtomicU64::new(0) }; 2])
    }

    fn get(&self) -> Option<Range<u64>> {
        let [start, end] = &self.0;
        let end = end.load(Ordering::SeqCst);
        (end != 0).then(|| start.load(Ordering::SeqCst)..end)
    }

    fn set(&self, range: &Range<u64>) {
        let [start, end] = &self.0;
        start.store(range.start, Ordering::SeqCst);
        end.store(range.end, Ordering::SeqCst);
    }

    fn clear(&self) {
        let [_, end] = &self.0;
        end.store(0, Ordering::SeqCst);
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// Where text was ever changed, and may be still: at least. Written with the
/// engine's lock held.
static CHANGED: [Slot; 64] = [const { Slot::empty() }; 64];
/// Changes that lie closer together share a place.
const CLOSE: u64 = 1 << 16;

/// Text at `addr` is about to be changed; the caller holds the engine's lock.
pub(crate) fn note_change(addr: u64) {
    let distance = |range: &Range<u64>| {
        let behind = (addr + 1).saturating_sub(range.end);
        behind.max(range.start.saturating_sub(addr))
    };
    let mut nearest: Option<(u64, &Slot, Range<u64>)> = None;
    let mut free = None;
    for slot in &CHANGED {
        let Some(range) = slot.get() else {
            free = free.or(Some(slot));
            continue;
        };
        let distance = distance(&range);
        if distance == 0 {
            return;
        }
        if nearest.as_ref().is_none_or(|(least, ..)| distance < *least) {
            nearest = Some((distance, slot, range));
        }
    }
    match (nearest, free) {
        (Some((distance, slot, range)), free) if distance < CLOSE || free.is_none() => {
            let [start, end] = &slot.0;
            start.store(range.start.min(addr), Ordering::SeqCst);
            end.store(range.end.max(addr + 1), Ordering::SeqCst);
        }
        (_, Some(slot)) => slot.set(&(addr..addr + 1)),
        _ => {}
    }
}

/// Whether text in a range may be changed.
pub(crate) fn may_be_changed(range: &Range<u64>) -> bool {
    let mut changed = CHANGED.iter().filter_map(Slot::get);
    changed.any(|changed| overlap(&changed, range))
}

/// One call that moves memory.
struct Call {
    is_taken: AtomicBool,
    range: Slot,
    /// There were hooks.
    is_hooked: AtomicBool,
}

static CALLS: [Call; 16] = [const {
    Call {
        is_taken: AtomicBool::new(false),
        range: Slot::empty(),
        is_hooked: AtomicBool::new(false),
    }
}; 16];

/// The range is about to be moved. False where too many are.
pub(crate) fn begin(range: &Range<u64>) -> bool {
    let call = CALLS
        .iter()
        .find(|call| !call.is_taken.swap(true, Ordering::SeqCst));
    if let Some(call) = call {
        call.is_hooked.store(false, Ordering::SeqCst);
        call.range.set(range);
    }
    call.is_some()
}

/// Hooks were taken back in a range that is about to be moved.
pub(crate) fn had_hooks(range: &Range<u64>) {
    if let Some(call) = find(range) {
        call.is_hooked.store(true, Ordering::SeqCst);
    }
}

/// Nobody moves the range any more. Whether there were hooks.
pub(crate) fn end(range: &Range<u64>) -> bool {
    let Some(call) = find(range) else {
        return false;
    };
    let is_hooked = call.is_hooked.load(Ordering::SeqCst);
    call.range.clear();
    call.is_taken.store(false, Ordering::SeqCst);
    is_hooked
}

fn find(range: &Range<u64>) -> Option<&'static Call> {
    let is_it = |call: &&Call| call.range.get().as_ref() == Some(range);
    CALLS.iter().find(is_it)
}

/// Whether text at an address may be moved right now.
pub(crate) fn is_moving(addr: u64) -> bool {
    let mut moving = CALLS.iter().filter_map(|call| call.range.get());
    moving.any(|range| range.contains(&addr))
}

/// In a forked child: calls of the parent's other threads are not under way.
pub(crate) fn forget() {
    for call in &CALLS {
        call.range.clear();
        call.is_taken.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_at_a_time_and_what_is_changed() {
        let text = 0x7000_0000_0000_u64;
        let range = text..text + 0x1000;
        assert!(!may_be_changed(&range));
        note_change(text + 0xfff);
        note_change(text + 0x1010);
        assert!(may_be_changed(&range));
        assert!(may_be_changed(&(text + 0x1010..text + 0x1011)));
        assert!(!may_be_changed(&(text..text + 0xfff)));
        assert!(!may_be_changed(&(text + 0x1011..text + 0x2000)));
        assert!(begin(&range));
        assert!(is_moving(text) && !is_moving(text + 0x1000));
        assert!(!end(&range));
        assert!(!is_moving(text) && !end(&range));
        assert!(begin(&range));
        had_hooks(&range);
        assert!(end(&range));
        // More places than there are slots: none is missed.
        for i in 0..100 {
            note_change(i << 32);
        }
        assert!((0..100).all(|i| may_be_changed(&(i << 32..(i << 32) + 1))));
    }
}
