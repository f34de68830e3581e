//! The table of readable ranges, and the words around it. It knows no system
//! call and no thread. Reachable from trampolines: no allocation, no lock, no
//! libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::ops::Range;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::*};

/// Ranges of one table. A hint is a byte, so any hint is a place in it.
pub(super) const RANGES: usize = 256;
/// Threads that can read at a time.
pub(super) const THREADS: usize = 2048;
/// The copy's instructions take a byte of the address.
const HINTS: usize = 256;

/// Addresses from `start` up to `end`. While a table is in use they only ever
/// come closer, so whatever a reader finds in the two words is part of what was
/// published, and without what had been taken away when it began to look.
#[repr(C)]
struct Entry {
    start: AtomicU64,
    end: AtomicU64,
}

/// Sorted ranges that do not overlap.
#[repr(C)]
pub(super) struct Table {
    entries: [Entry; RANGES],
    count: AtomicU32,
}

/// What instructions know of it.
pub(crate) mod offsets {
    use super::{Board, Entry, Table};
    use core::mem::{offset_of, size_of};

    /// Neighbouring addresses share a hint.
    pub(crate) const HINT_SHIFT: u32 = 16;
    pub(crate) const ACTIVE: usize = offset_of!(Board, active);
    pub(crate) const HINTS: usize = offset_of!(Board, hints);
    pub(crate) const START: usize = offset_of!(Entry, start);
    pub(crate) const END: usize = offset_of!(Entry, end);
    const _: () = assert!(size_of::<Entry>() == 16 && offset_of!(Table, entries) == 0);
}

impl Table {
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        let count = self.count.load(Acquire) as usize;
        self.entries.iter().take(count)
    }

    /// Takes `gone` out; whether anything of it was in.
    pub(super) fn cut(&self, gone: &Range<u64>) -> bool {
        let mut touched = false;
        for entry in self.entries() {
            let (start, end) = (entry.start.load(SeqCst), entry.end.load(SeqCst));
            if start >= end || end <= gone.start || gone.end <= start {
                continue;
            }
            touched = true;
            let below = gone.start.saturating_sub(start);
            let above = end.saturating_sub(gone.end);
            // The longer part stays.
            if below >= above {
                entry.end.fetch_min(gone.start.max(start), SeqCst);
            } else {
                entry.start.fetch_max(gone.end, SeqCst);
            }
        }
        touched
    }

    /// Fills a table that nobody uses. The ranges are sorted and do not overlap;
    /// those for which there is no room are left out.
    fn fill(&self, ranges: &[Range<u64>]) {
        self.count.store(0, Relaxed);
        for (entry, range) in self.entries.iter().zip(ranges) {
            entry.start.store(range.start, Relaxed);
            entry.end.store(range.end, Relaxed);
        }
        for entry in self.entries.iter().skip(ranges.len()) {
            entry.start.store(0, Relaxed);
            entry.end.store(0, Relaxed);
        }
        self.count.store(ranges.len().min(RANGES) as u32, Release);
    }

    /// Which entry holds `len` bytes at `address`.
    pub(super) fn find(&self, address: u64, len: u64) -> Option<u8> {
        let holds = |entry: &Entry| {
            let start = entry.start.load(Relaxed);
            let left = entry.end.load(Relaxed).checked_sub(address);
            start <= address && left.is_some_and(|left| len <= left)
        };
        // Starts stay sorted: each stays within what was its own range.
        let from = |entry: &Entry| entry.start.load(Relaxed) <= address;
        let count = (self.count.load(Acquire) as usize).min(RANGES);
        let index = self
            .entries
            .get(..count)?
            .partition_point(from)
            .checked_sub(1)?;
        self.entries.get(index).filter(|entry| holds(entry))?;
        u8::try_from(index).ok()
    }
}

/// One thread's word, alone in its cache line: others read it.
#[repr(C, align(64))]
pub(super) struct Word(pub(super) AtomicU64);

/// All that readers and takers share: zeros at first, and in a forked child,
/// where the kernel wipes it.
#[repr(C)]
pub(super) struct Board {
    /// What readers look at.
    active: AtomicPtr<Table>,
    /// Where in the table an address was found last time.
    hints: [AtomicU8; HINTS],
    tables: [Table; 2],
    state: StateWord,
    /// Not 0: the thread may be reading.
    pub(super) words: [Word; THREADS],
}

#[repr(C, align(64))]
struct StateWord {
    /// Two bits: which table is published, if any. Then 20 bits: calls under way
    /// that take memory away. Then how often one began or ended.
    word: AtomicU64,
    /// Calls that have taken ranges out and do not know yet that nobody reads
    /// them any more.
    cutting: AtomicU64,
    /// An address that was not in the table, though it could be read.
    missed: AtomicU64,
}

const TABLE: u64 = 3;
const UNDER_WAY: u64 = 1 << 2;
const UNDER_WAY_MASK: u64 = 0xf_ffff << 2;
const CHANGE: u64 = 1 << 22;

/// The word as it was when a look at the process's memory began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look(u64);

impl Board {
    fn published(&self, word: u64) -> Option<&Table> {
        let number = (word & TABLE) as usize;
        self.tables.get(number.checked_sub(1)?)
    }

    /// Where `len` readable bytes at `address` are found from now on.
    pub(super) fn learn(&self, address: u64, len: u64) -> bool {
        // SAFETY: null or one of `tables`.
        let active = unsafe { self.active.load(Acquire).as_ref() };
        let index = active.and_then(|table| table.find(address, len));
        let hint = self
            .hints
            .get((address >> offsets::HINT_SHIFT) as usize % HINTS);
        let (Some(index), Some(hint)) = (index, hint) else {
            return false;
        };
        hint.store(index, Relaxed);
        true
    }

    pub(super) fn note_miss(&self, address: u64) {
        self.state.missed.store(address, Relaxed);
    }

    pub(super) fn take_miss(&self) -> Option<u64> {
        Some(self.state.missed.swap(0, Relaxed)).filter(|address| *address != 0)
    }

    /// A call begins that takes `gone` away. Whether readers of it may be under
    /// way: then [`Board::cut_is_over`] has to follow when none are.
    pub(super) fn begin(&self, gone: &Range<u64>) -> bool {
        let word = self.state.word.fetch_add(CHANGE + UNDER_WAY, SeqCst);
        self.cut(word, gone)
    }

    /// The same for what is no call, and has no end.
    pub(super) fn change(&self, gone: &Range<u64>) -> bool {
        let word = self.state.word.fetch_add(CHANGE, SeqCst);
        self.cut(word, gone)
    }

    fn cut(&self, word: u64, gone: &Range<u64>) -> bool {
        if word & TABLE == 0 {
            return false;
        }
        // First this, so that whoever finds our range cut sees that we wait.
        self.state.cutting.fetch_add(1, SeqCst);
        // Both: readers use the one before until the publisher's last store.
        let touched = self
            .tables
            .iter()
            .fold(false, |touched, table| table.cut(gone) | touched);
        if touched || self.state.cutting.load(SeqCst) > 1 {
            return true;
        }
        self.state.cutting.fetch_sub(1, SeqCst);
        false
    }

    pub(super) fn cut_is_over(&self) {
        self.state.cutting.fetch_sub(1, SeqCst);
    }

    /// A call that was seen by [`Board::begin`] has ended.
    pub(super) fn end(&self) {
        // Never below 0: in a forked child the count began anew.
        let _ended = self.state.word.fetch_update(SeqCst, Relaxed, |word| {
            (word & UNDER_WAY_MASK != 0).then(|| word.wrapping_add(CHANGE) - UNDER_WAY)
        });
    }

    /// Begins a look at the memory; `None` while a call is under way.
    pub(super) fn look(&self) -> Option<Look> {
        let word = self.state.word.load(SeqCst);
        (word & UNDER_WAY_MASK == 0).then_some(Look(word))
    }

    /// Publishes what was found, unless a call has begun since the look did.
    /// Call only when nobody can be reading the table before the last.
    pub(super) fn publish(&self, look: Look, ranges: &[Range<u64>]) -> bool {
        let next = if look.0 & TABLE == 1 { 2 } else { 1 };
        let Some(table) = self.published(next) else {
            return false;
        };
        table.fill(ranges);
        let word = (look.0 & !TABLE) | next;
        let published = self
            .state
            .word
            .compare_exchange(look.0, word, SeqCst, SeqCst);
        if published.is_ok() {
            // A call that has begun since has cut this table, too.
            self.active
                .store(core::ptr::from_ref(table).cast_mut(), SeqCst);
        }
        published.is_ok()
    }

    /// What is published and still there.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let table = self.published(self.state.word.load(SeqCst));
        let entries = table.into_iter().flat_map(Table::entries);
        let ranges = entries.map(|entry| entry.start.load(SeqCst)..entry.end.load(SeqCst));
        ranges.filter(|range| !range.is_empty())
    }
}
