//! Where the parts of a hash table lie in its storage. It knows no operation.

use uapi::Errno;
use uapi::map::{
    BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC, BPF_F_NUMA_NODE, BPF_F_ZERO_SEED, BPF_MAP_TYPE_HASH,
    BPF_MAP_TYPE_LRU_HASH,
};

use super::super::spec::{ACCESS_MASK, MapSpec, PCPU_MIN_UNIT_SIZE, WORD};
use super::element::{HEADER, NUMBER_BITS};
use super::hints::Hints;

/// `HTAB_CREATE_FLAG_MASK` (kernel/bpf/hashtab.c).
const KNOWN_FLAGS: u32 =
    BPF_F_NO_PREALLOC | BPF_F_NO_COMMON_LRU | BPF_F_NUMA_NODE | ACCESS_MASK | BPF_F_ZERO_SEED;
/// `KMALLOC_MAX_SIZE - sizeof(struct htab_elem)` on x86-64.
const MAX_ELEMENT: u64 = (4 << 20) - 48;
/// `U32_MAX / sizeof(struct bucket)`, as a power of two.
const MAX_BUCKETS: u64 = 1 << 27;
/// Least number of spare elements: updates of existing keys that can be under
/// way (or have leaked with killed processes) at the same time.
const LEAST_SPARES: u64 = 64;
/// Bytes before the buckets.
const HEADER_BYTES: u64 = 256;
const LINE: u64 = 64;
/// Buckets in a page of memory.
const PAGE_BUCKETS: u64 = 4096 / WORD;
/// Bytes up to which a value's second place is next to its first, where it
/// costs no other page. Larger ones cost memory only when they change.
const NEAR_VALUE: u64 = 16;

/// Words of the header, a cache line each.
pub(in crate::maps) mod header {
    /// Regular elements that were ever given out.
    pub const REGULAR_USED: u64 = 0;
    /// Spare elements that were ever given out.
    pub const SPARE_USED: u64 = 64;
    /// When the last scan for leaked elements began, in ns of
    /// `CLOCK_MONOTONIC`.
    pub const LAST_SCAN: u64 = 128;
    /// What other maps than hash tables keep, two words.
    pub const OWN: u64 = 192;
}

/// Where a table has its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::maps) enum Places {
    One,
    /// A value changes by being written to its other place.
    Two,
    PerCpu,
}

/// In the order in which programs need it: what a hit looks at first is
/// together.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::maps) struct Layout {
    pub buckets: u64,
    pub bucket_mask: u64,
    /// Elements, regular ones first.
    pub count: u64,
    pub elements: u64,
    pub element_bytes: u64,
    /// Whether values have two places, which changes use in turns.
    pub has_twins: bool,
    /// Where the value of element 0 of CPU 0 lies.
    pub values: u64,
    /// From one element's value to the next one's.
    pub value_step: u64,
    /// Where the second place of element 0 lies, and from there to the next
    /// one's; the first place where there is no other.
    pub twins: u64,
    pub twin_step: u64,
    /// From one CPU's values to the next one's.
    pub cpu_step: u64,
    pub regular: u64,
    /// A bit for each page of buckets that ever had an entry: walks leave the
    /// others alone, for a look at a page makes it cost memory.
    pub used_pages: u64,
    /// Hints of free regular and of free spare elements.
    pub regular_hints: u64,
    pub spare_hints: u64,
    /// All of it.
    pub bytes: u64,
}

impl Layout {
    /// Where the word of a bucket's page is among [`Layout::used_pages`], and
    /// its bit there.
    pub fn used_page(&self, bucket: u64) -> (u64, u64) {
        let page = (bucket & self.bucket_mask) / PAGE_BUCKETS;
        let bits = u64::from(u64::BITS);
        (self.used_pages + page / bits * WORD, 1 << (page % bits))
    }

    /// The first bucket of the next page.
    pub fn next_page(bucket: u64) -> u64 {
        (bucket / PAGE_BUCKETS + 1) * PAGE_BUCKETS
    }

    /// `htab_map_alloc_check` and `htab_map_alloc`, then the places.
    pub fn of(spec: &MapSpec, nr_cpus: u32, per_cpu: bool, lru: bool) -> Result<Layout, Errno> {
        spec.check_flags(KNOWN_FLAGS)?;
        let lru_of_cpu = spec.has(BPF_F_NO_COMMON_LRU);
        if lru_of_cpu && !lru {
            return Err(Errno::EINVAL);
        }
        if lru && spec.has(BPF_F_NO_PREALLOC) {
            return Err(Errno::ENOTSUPP);
        }
        if spec.has(BPF_F_NUMA_NODE) && (per_cpu || lru_of_cpu) {
            return Err(Errno::EINVAL);
        }
        if spec.max_entries == 0 || spec.key_size == 0 || spec.value_size == 0 {
            return Err(Errno::EINVAL);
        }
        if u64::from(spec.key_size) + u64::from(spec.value_size) >= MAX_ELEMENT
            || (per_cpu && spec.stride() > u64::from(PCPU_MIN_UNIT_SIZE))
        {
            return Err(Errno::E2BIG);
        }
        let regular = u64::from(spec.max_entries);
        let bucket_count = regular.next_power_of_two();
        if bucket_count > MAX_BUCKETS {
            return Err(Errno::E2BIG);
        }
        let places = match per_cpu {
            true => Places::PerCpu,
            // What is in a value beside bytes has one place.
            false if spec.field_count == 0 && has_twins(spec) => Places::Two,
            false => Places::One,
        };
        Layout::place(spec, nr_cpus, places, regular, bucket_count).ok_or(Errno::ENOMEM)
    }

    /// Elements of `payload` bytes that other maps than hash tables make of
    /// them, all regular, with `words` words (a power of two) where a table
    /// has its buckets.
    pub fn of_elements(count: u64, words: u64, payload: u64) -> Option<Layout> {
        if count >> NUMBER_BITS != 0 {
            return None;
        }
        let mut end = HEADER_BYTES;
        let mut take = |bytes: u64| -> Option<u64> {
            let at = end;
            end = end.checked_add(bytes)?.checked_next_multiple_of(LINE)?;
            Some(at)
        };
        let buckets = take(words.checked_mul(WORD)?)?;
        let regular_hints = take(Hints::bytes(count + 1))?;
        let element_bytes = HEADER + payload.checked_next_multiple_of(WORD)?;
        let elements = take(count.checked_mul(element_bytes)?)?;
        Some(Layout {
            bucket_mask: words - 1,
            buckets,
            // Nobody walks over what lies there.
            used_pages: buckets,
            regular_hints,
            // No element is ever among the spares.
            spare_hints: regular_hints,
            elements,
            element_bytes,
            count,
            regular: count,
            values: elements + HEADER,
            value_step: element_bytes,
            has_twins: false,
            twins: elements + HEADER,
            twin_step: element_bytes,
            cpu_step: 0,
            bytes: end,
        })
    }

    /// A table of `regular` entries with keys and values of `spec`'s sizes.
    pub fn place(
        spec: &MapSpec,
        nr_cpus: u32,
        places: Places,
        regular: u64,
        bucket_count: u64,
    ) -> Option<Layout> {
        let count = regular + LEAST_SPARES.max(2 * u64::from(nr_cpus));
        if count >> NUMBER_BITS != 0 {
            return None;
        }
        let mut end = HEADER_BYTES;
        let mut take = |bytes: u64| -> Option<u64> {
            let at = end;
            end = end.checked_add(bytes)?.checked_next_multiple_of(LINE)?;
            Some(at)
        };
        let buckets = take(bucket_count * WORD)?;
        let pages = bucket_count.div_ceil(PAGE_BUCKETS);
        let used_pages = take(pages.div_ceil(u64::BITS.into()) * WORD)?;
        // Elements are numbered from 1.
        let regular_hints = take(Hints::bytes(count + 1))?;
        let spare_hints = take(Hints::bytes(count + 1))?;
        let key_bytes = u64::from(spec.key_size).next_multiple_of(WORD);
        let stride = spec.stride();
        let own_values = match places {
            Places::PerCpu => 0,
            Places::Two if stride <= NEAR_VALUE => 2 * stride,
            Places::One | Places::Two => stride,
        };
        let element_bytes = HEADER + key_bytes + own_values;
        let elements = take(count.checked_mul(element_bytes)?)?;
        let own = elements + HEADER + key_bytes;
        let (values, value_step, cpu_step) = match places {
            Places::PerCpu => {
                let cpu_step = (count * stride).next_multiple_of(2 * LINE);
                let values = take(cpu_step.checked_mul(u64::from(nr_cpus))?)?;
                (values, stride, cpu_step)
            }
            Places::One | Places::Two => (own, element_bytes, 0),
        };
        let (twins, twin_step) = match places {
            Places::Two if stride <= NEAR_VALUE => (own + stride, element_bytes),
            Places::Two => (take(count.checked_mul(stride)?)?, stride),
            Places::One | Places::PerCpu => (values, value_step),
        };
        Some(Layout {
            bucket_mask: bucket_count - 1,
            buckets,
            used_pages,
            regular_hints,
            spare_hints,
            elements,
            element_bytes,
            count,
            regular,
            values,
            value_step,
            has_twins: places == Places::Two,
            twins,
            twin_step,
            cpu_step,
            bytes: end,
        })
    }
}

fn has_twins(spec: &MapSpec) -> bool {
    [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LRU_HASH].contains(&spec.map_type)
}
