//! The `data` file of a session: what programs write. Fixed areas for the
//! doorbell, vCPU claims and link counters, then a heap for the storage of
//! maps and rings. It knows where things are, not what they mean.

use shm::Region;
use shm::sync::{AtomicU64, Ordering};
use std::collections::BTreeMap;

use super::objects::{SLOTS, slot_of};

/// Most CPUs a session is made for (`CONFIG_NR_CPUS` of large distributions).
pub const MAX_CPUS: u32 = 8192;

/// Size of a page and the unit of storage.
pub(super) const PAGE: u64 = 4096;
/// Where the doorbell lies: one page.
const DOORBELL: u64 = PAGE;
/// Where the vCPU claims lie: one cache line per CPU.
const VCPUS: u64 = 2 * PAGE;
/// Bytes of one vCPU claim.
pub const VCPU_BYTES: u64 = 64;
/// Where the link counters lie.
const COUNTERS: u64 = 2 << 20;
const COUNTERS_BYTES: u64 = SLOTS as u64 * size_of::<[CounterLine; COUNTER_LINES]>() as u64;
/// Where storage begins.
pub(super) const HEAP: u64 = COUNTERS + COUNTERS_BYTES;

/// Apparent size of the file at best; pages cost when touched.
pub(super) const FILE_BYTES: u64 = 64 << 30;
/// Apparent size we go down to when the address space is limited.
pub(super) const LEAST_BYTES: u64 = 1 << 30;

const _: () = assert!(VCPUS + MAX_CPUS as u64 * VCPU_BYTES <= COUNTERS);

/// Cache lines over which one link's counters are spread, so that threads
/// that hit the same probe do not fight for a line. A power of two.
pub const COUNTER_LINES: usize = 16;

/// One cache line of a link's counters.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct CounterLine {
    /// Runs of the program.
    pub hits: AtomicU64,
    /// Hits without a run: recursion, no vCPU free, program not runnable.
    pub missed: AtomicU64,
}

/// Sums of a link's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs of the program.
    pub hits: u64,
    /// Hits without a run.
    pub missed: u64,
}

/// The counters of one link.
#[derive(Clone)]
pub struct LinkCounters {
    region: Region,
}

impl LinkCounters {
    /// The lines, for the hit path; valid as long as this value (leak it, or
    /// keep it beside the pointer).
    pub fn lines(&self) -> *const [CounterLine; COUNTER_LINES] {
        self.region.as_ptr().cast_const().cast()
    }

    /// Adds what was counted elsewhere.
    pub fn add(&self, hits: u64, missed: u64) {
        let fields = [
            (std::mem::offset_of!(CounterLine, hits), hits),
            (std::mem::offset_of!(CounterLine, missed), missed),
        ];
        for (field, count) in fields {
            if count != 0
                && let Some(word) = self.region.u64_at(field as u64)
            {
                word.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// The sums over all lines.
    pub fn totals(&self) -> Counts {
        let sum = |field: u64| {
            (0..COUNTER_LINES as u64)
                .filter_map(|line| {
                    self.region
                        .u64_at(line * size_of::<CounterLine>() as u64 + field)
                })
                .fold(0u64, |sum, word| {
                    sum.wrapping_add(word.load(Ordering::Relaxed))
                })
        };
        Counts {
            hits: sum(std::mem::offset_of!(CounterLine, hits) as u64),
            missed: sum(std::mem::offset_of!(CounterLine, missed) as u64),
        }
    }

    /// Back to 0, for a link that takes the place of an older one.
    pub(super) fn reset(&self) {
        for offset in (0..self.region.len()).step_by(8) {
            if let Some(word) = self.region.u64_at(offset)
                && word.load(Ordering::Relaxed) != 0
            {
                word.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Where the counters of a link lie, and their bytes.
pub(super) fn counters_at(link: u32) -> (u64, u64) {
    const LINK: u64 = size_of::<[CounterLine; COUNTER_LINES]>() as u64;
    (COUNTERS + u64::from(slot_of(link)) * LINK, LINK)
}

/// The fixed areas of a mapped `data` file.
#[derive(Clone)]
pub(super) struct Data {
    region: Region,
}

impl Data {
    /// `None` when the file is too short to be one.
    pub fn new(region: Region) -> Option<Data> {
        (region.len() > HEAP).then_some(Data { region })
    }

    /// Bytes from [`HEAP`] on.
    pub fn heap_bytes(&self) -> u64 {
        self.region.len().saturating_sub(HEAP)
    }

    /// The doorbell's page.
    pub fn doorbell(&self) -> Option<Region> {
        self.region.sub(DOORBELL, PAGE)
    }

    /// The claims of `nr_cpus` vCPUs.
    pub fn vcpus(&self, nr_cpus: u32) -> Option<Region> {
        self.region
            .sub(VCPUS, u64::from(nr_cpus.min(MAX_CPUS)) * VCPU_BYTES)
    }

    /// The counters of a link.
    pub fn counters(&self, link: u32) -> Option<LinkCounters> {
        let (offset, len) = counters_at(link);
        Some(LinkCounters {
            region: self.region.sub(offset, len)?,
        })
    }

    /// Storage on the heap; `None` when the claim does not lie there.
    pub fn storage(&self, offset: u64, len: u64) -> Option<Region> {
        (offset >= HEAP && offset.is_multiple_of(PAGE)).then(|| self.region.sub(offset, len))?
    }
}

/// Free ranges of an address space, merged when they touch. New ranges are
/// taken after the last one given out, so that freed storage rests for as
/// long as there is room: a target that missed an unlink does no harm.
pub(super) struct Extents {
    free: BTreeMap<u64, u64>,
    unit: u64,
    cursor: u64,
}

impl Extents {
    /// `len` free bytes from `start`, given out in multiples of `unit`.
    pub fn new(start: u64, len: u64, unit: u64) -> Extents {
        Extents {
            free: BTreeMap::from([(start, len)]),
            unit,
            cursor: start,
        }
    }

    /// Takes `len` bytes, rounded up.
    pub fn take(&mut self, len: u64) -> Option<u64> {
        let len = self.round(len)?;
        let fits = |(&start, &size): (&u64, &u64)| (size >= len).then_some((start, size));
        let (start, size) = self
            .free
            .range(self.cursor..)
            .find_map(fits)
            .or_else(|| self.free.iter().find_map(fits))?;
        self.free.remove(&start);
        if size > len {
            self.free.insert(start + len, size - len);
        }
        self.cursor = start + len;
        Some(start)
    }

    /// Gives a range back as it was taken.
    pub fn give(&mut self, start: u64, len: u64) {
        let Some(mut len) = self.round(len) else {
            return;
        };
        let mut start = start;
        if let Some(next) = self.free.remove(&(start + len)) {
            if self.cursor == start + len {
                // The rest of the space stays the place for new ranges.
                self.free.insert(start + len, next);
            } else {
                len += next;
            }
        }
        if let Some((&before, &size)) = self.free.range(..start).next_back()
            && before + size == start
        {
            start = before;
            len += size;
        }
        self.free.insert(start, len);
    }

    fn round(&self, len: u64) -> Option<u64> {
        len.max(1).checked_next_multiple_of(self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_rest_before_reuse_and_merge() {
        let mut extents = Extents::new(100, 40, 10);
        assert_eq!(extents.take(10), Some(100));
        assert_eq!(extents.take(1), Some(110));
        extents.give(100, 10);
        extents.give(110, 1);
        assert_eq!(extents.take(10), Some(120));
        assert_eq!(extents.take(10), Some(130));
        assert_eq!(extents.take(20), Some(100));
        assert_eq!(extents.take(1), None);
        for (start, len) in [(130, 10), (100, 20), (120, 10)] {
            extents.give(start, len);
        }
        assert_eq!(extents.take(40), Some(100));
    }

    #[test]
    fn fixed_areas_do_not_overlap() {
        assert_eq!(HEAP % PAGE, 0);
        assert_eq!(size_of::<CounterLine>(), 64);
        assert_eq!(HEAP, (2 << 20) + 65_536 * 1024);
    }
}
