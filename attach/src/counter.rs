//! Counting hits without an atomic instruction: a word for each counter in
//! each thread's block. It knows no probe.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::shadow;

/// Counters that there can be at a time.
const MOST: usize = 1 << 15;

/// Bytes of a block that hold counters.
pub(crate) const COUNTER_BYTES: usize = MOST * size_of::<u64>();

/// A bit for each word that has a counter; the first is nobody's.
static USED: [AtomicU64; MOST / 64] = {
    let mut used = [const { AtomicU64::new(0) }; MOST / 64];
    used[0] = AtomicU64::new(1);
    used
};

/// Counts the hits of the probes that name it. Exact, and costs a hit one
/// plain addition.
#[derive(Debug)]
pub struct Counter {
    hits: Hits,
    /// What the words held in all threads when they were looked at last.
    before: AtomicU64,
}

/// Where a probe's hits are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hits(u16);

impl Hits {
    /// Nobody looks at this count.
    pub const UNCOUNTED: Hits = Hits(0);

    /// Where the word is in a thread's block.
    pub(crate) fn offset(self) -> usize {
        shadow::COUNTERS + usize::from(self.0) * size_of::<u64>()
    }
}

impl Counter {
    /// A counter at 0; none if there are too many.
    pub fn new() -> Option<Counter> {
        let word = USED.iter().enumerate().find_map(|(index, bits)| {
            let take = |bits: u64| (bits != u64::MAX).then(|| bits | (bits + 1));
            let old = bits.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take);
            Some(index * 64 + old.ok()?.trailing_ones() as usize)
        })?;
        let hits = Hits(u16::try_from(word).ok()?);
        let before = AtomicU64::new(shadow::total(hits.offset()));
        Some(Counter { hits, before })
    }

    /// What probes name.
    pub fn hits(&self) -> Hits {
        self.hits
    }

    /// Hits since this was asked last.
    pub fn take(&self) -> u64 {
        let now = shadow::total(self.hits.offset());
        now.wrapping_sub(self.before.swap(now, Ordering::Relaxed))
    }
}

impl Drop for Counter {
    /// The word is another's from now on: only when no hit that names it can
    /// be under way.
    fn drop(&mut self) {
        let (index, bit) = (self.hits.0 / 64, self.hits.0 % 64);
        if let Some(bits) = USED.get(usize::from(index)) {
            bits.fetch_and(!(1 << bit), Ordering::AcqRel);
        }
    }
}
