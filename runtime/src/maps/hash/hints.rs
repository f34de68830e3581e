//! A set of element numbers that may be free: a tree of bits, 64 to a word.
//! The set is a hint: setting a bit twice is harmless, whoever takes a number
//! asks the element itself, and a number whose bit was lost with a killed
//! process is found again by a scan. It knows no element.

use shm::Region;
use shm::sync::Ordering::SeqCst;

/// Levels: 64^5 numbers are more than a table has elements.
const LEVELS: usize = 5;
const BITS: u64 = 64;
const WORD: u64 = 8;
/// Words looked at before a search gives up; each try that fails repairs a
/// summary or lost a race.
const TRIES: u32 = 512;

pub(super) struct Hints {
    region: Region,
    /// Where each level starts, leaves first.
    levels: [u64; LEVELS],
    /// Levels in use.
    height: usize,
    count: u64,
}

impl Hints {
    /// Bytes for a set of numbers below `count`.
    pub fn bytes(count: u64) -> u64 {
        let mut words = count.div_ceil(BITS);
        let mut total = words;
        while words > 1 {
            words = words.div_ceil(BITS);
            total += words;
        }
        total * WORD
    }

    /// The set in `region`, of [`Hints::bytes`]; zeros are the empty set.
    pub fn new(region: Region, count: u64) -> Hints {
        let mut levels = [0; LEVELS];
        let mut words = count.div_ceil(BITS);
        let mut height = 1;
        let mut next = words * WORD;
        while words > 1 && height < LEVELS {
            levels[height] = next;
            words = words.div_ceil(BITS);
            next += words * WORD;
            height += 1;
        }
        Hints {
            region,
            levels,
            height,
            count,
        }
    }

    /// Adds `number`.
    pub fn set(&self, number: u64) {
        self.raise(0, number);
    }

    /// Sets bit `at` of level `depth` and its summaries.
    fn raise(&self, depth: usize, at: u64) {
        let mut at = at;
        for &level in self.levels.iter().take(self.height).skip(depth) {
            let Some(word) = self.region.u64_at(level + at / BITS * WORD) else {
                return;
            };
            let bit = 1 << (at % BITS);
            // Reading first keeps the upper levels' lines shared.
            if word.load(SeqCst) & bit == 0 {
                word.fetch_or(bit, SeqCst);
            }
            at /= BITS;
        }
    }

    /// Takes a number out, near bit `start` of its word; `None` when the set
    /// looks empty.
    pub fn take(&self, start: u32) -> Option<u64> {
        for _ in 0..TRIES {
            let mut at = 0;
            let mut depth = self.height;
            loop {
                depth = depth.checked_sub(1)?;
                let level = *self.levels.get(depth)?;
                let word = self.region.u64_at(level + at * WORD)?;
                let bits = word.load(SeqCst);
                if bits == 0 {
                    if depth + 1 == self.height {
                        return None;
                    }
                    self.clear_summary(depth, at);
                    break;
                }
                let turn = if depth == 0 { start % 64 } else { 0 };
                let bit = u64::from((bits.rotate_right(turn).trailing_zeros() + turn) % 64);
                at = at * BITS + bit;
                if depth > 0 {
                    continue;
                }
                let old = word.fetch_and(!(1 << bit), SeqCst);
                if old == 1 << bit {
                    self.clear_summary(0, at / BITS);
                }
                if old & 1 << bit != 0 && at < self.count {
                    return Some(at);
                }
                break;
            }
        }
        None
    }

    /// Word `at` of `depth` was seen empty: says so above, unless it no longer
    /// is. Whoever sets a bit reads the summary after, so one of us sees it.
    fn clear_summary(&self, depth: usize, at: u64) {
        let mut at = at;
        for depth in depth..self.height.saturating_sub(1) {
            let (Some(&below), Some(&above)) = (self.levels.get(depth), self.levels.get(depth + 1))
            else {
                return;
            };
            let (Some(word), Some(summary)) = (
                self.region.u64_at(below + at * WORD),
                self.region.u64_at(above + at / BITS * WORD),
            ) else {
                return;
            };
            let bit = 1 << (at % BITS);
            let left = summary.fetch_and(!bit, SeqCst) & !bit;
            if word.load(SeqCst) != 0 {
                self.raise(depth + 1, at);
                return;
            }
            if left != 0 {
                return;
            }
            at /= BITS;
        }
    }
}
