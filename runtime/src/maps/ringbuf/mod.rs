//! `BPF_MAP_TYPE_RINGBUF` (kernel/bpf/ringbuf.c), laid out as an unmodified
//! libbpf mmaps it. It knows no reader: whoever is told to wake one does it.
//!
//! Reading order: this file (the ring as bpf(2) sees it), `produce` (as
//! programs do), `header` (a record's first word), `publish` (when the reader
//! sees it, and why that is right), `claims` (who writes a record), `reap`
//! (what is done for producers that were killed).
//!
//! A record belongs to whom moves `reserved` past it by compare and exchange:
//! the one locked instruction on its way, which is most of what it costs. Its
//! owner writes header and data, and when it is done `producer_pos` moves over
//! it. No producer waits for another.

mod claims;
mod drain;
mod header;
mod produce;
mod publish;
mod reap;
#[cfg(test)]
mod tests;

use shm::sync::AtomicU64;
use shm::sync::Ordering::Acquire;
use shm::{DoubleMapping, Region};
use uapi::Errno;
use uapi::map::BPF_F_NUMA_NODE;

use self::claims::Claims;
use self::header::Header;
use super::kind::{MapKind, MapType, Start};
use super::spec::{MapSpec, PAGE};

pub(super) const TYPE: MapType = MapType {
    storage_size,
    over,
    per_cpu: false,
};

/// Where `consumer_pos` lies: the only page that the tool may write.
const CONSUMER: u64 = 0;
/// Where `producer_pos` lies.
const PRODUCER: u64 = PAGE;
/// Where data starts.
const DATA: u64 = 2 * PAGE;

/// `flags` of `bpf_ringbuf_query`.
mod query {
    pub const AVAIL_DATA: u64 = 0;
    pub const RING_SIZE: u64 = 1;
    pub const CONS_POS: u64 = 2;
    pub const PROD_POS: u64 = 3;
}

/// Our words, in pages after the data that the tool never maps.
mod own {
    /// Position up to which records are reserved, with [`super::SHARED`].
    pub const RESERVED: u64 = 0;
    /// When the last search for dead producers began, ns of
    /// `CLOCK_MONOTONIC`.
    pub const LAST_REAP: u64 = 64;
    /// Records that found no room.
    pub const DROPPED: u64 = 128;
    /// The claims.
    pub const CLAIMS: u64 = super::PAGE;
}

/// In the word `reserved`: there were several producers at a time, so all make
/// their barriers; see `publish`.
const SHARED: u64 = 1;

/// The position in the word `reserved`.
#[inline]
fn position(reserved: u64) -> u64 {
    reserved & !7
}

/// What `ringbuf_map_alloc` asks of rings of both directions.
pub(super) fn check(spec: &MapSpec) -> Result<(), Errno> {
    let size = u64::from(spec.max_entries);
    if spec.map_flags & !BPF_F_NUMA_NODE != 0
        || spec.key_size != 0
        || spec.value_size != 0
        || !size.is_power_of_two()
        || !size.is_multiple_of(PAGE)
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

fn storage_size(spec: &MapSpec, _nr_cpus: u32) -> Result<u64, Errno> {
    check(spec)?;
    Ok(DATA + u64::from(spec.max_entries) + own::CLAIMS + Claims::BYTES)
}

/// The ranges of storage that an mmap of `len` bytes at `offset` shows: both
/// positions' pages, then `size` bytes of data, twice.
pub(super) fn ranges(size: u64, offset: u64, len: u64) -> Result<Vec<(u64, u64)>, Errno> {
    let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
    let again = DATA + size;
    if !offset.is_multiple_of(PAGE) || end > again + size {
        return Err(Errno::EINVAL);
    }
    let mut ranges = Vec::new();
    if offset < again {
        ranges.push((offset, end.min(again) - offset));
    }
    if end > again {
        let from = offset.max(again);
        ranges.push((from - size, end - from));
    }
    Ok(ranges)
}

fn over(
    spec: &MapSpec,
    storage: Region,
    _nr_cpus: u32,
    _start: Start,
) -> Result<Box<dyn MapKind>, Errno> {
    // Zeros are an empty ring.
    let ring = Ring::new(storage, u64::from(spec.max_entries)).ok_or(Errno::ENOMEM)?;
    Ok(Box::new(ring))
}

/// A ring buffer as one process sees it.
pub struct Ring {
    /// Start of `_storage`, valid while it lives.
    base: *mut u8,
    _storage: Region,
    /// The data twice, so that every record is in one piece.
    data: DoubleMapping,
    /// Bytes of data, a power of two.
    size: u64,
    log2_size: u32,
    claims: Claims,
}

// SAFETY: `base` points into `_storage`, which may be used from any thread, and
// what lies there is only touched as atomics, or as bytes of a record by its
// owner.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(storage: Region, size: u64) -> Option<Ring> {
        crate::thread::init();
        Some(Ring {
            data: storage.map_double(DATA, size)?,
            claims: Claims::new(storage.sub(DATA + size + own::CLAIMS, Claims::BYTES)?)?,
            size,
            log2_size: size.trailing_zeros(),
            base: storage.as_ptr(),
            _storage: storage,
        })
    }

    /// Where records are, for a model.
    #[cfg(feature = "model")]
    pub fn data(&self) -> *mut u8 {
        self.data.as_ptr()
    }

    #[inline]
    fn word(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: the callers' offsets are multiples of 8 before the claims,
        // which `new` found in storage; aligned, and only used as an atomic.
        unsafe { AtomicU64::from_ptr(self.base.wrapping_add(offset as usize).cast()) }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU64 {
        self.word(CONSUMER)
    }

    #[inline]
    fn producer(&self) -> &AtomicU64 {
        self.word(PRODUCER)
    }

    #[inline]
    fn own(&self, field: u64) -> &AtomicU64 {
        self.word(DATA + self.size + field)
    }

    #[inline]
    fn reserved(&self) -> &AtomicU64 {
        self.own(own::RESERVED)
    }

    /// The header of the record at `position`, a multiple of 8.
    #[inline]
    fn header(&self, position: u64) -> &AtomicU64 {
        let at = position & (self.size - 1) & !7;
        // SAFETY: the mask keeps it in the data; aligned, and headers are only
        // used as atomics.
        unsafe { AtomicU64::from_ptr(self.data.as_ptr().wrapping_add(at as usize).cast()) }
    }

    fn tagged(&self, header: Header, position: u64) -> bool {
        header.is_at(position, self.log2_size)
    }

    /// Has the reader consumed everything, also what producers still write?
    pub fn is_empty(&self) -> bool {
        self.query(query::PROD_POS) == self.query(query::CONS_POS)
    }

    /// `bpf_ringbuf_query`: bytes of data to read, size, positions; 0 for
    /// unknown flags. As in the kernel, records that are still being written
    /// count.
    pub fn query(&self, flags: u64) -> u64 {
        let consumed = self.consumer().load(Acquire);
        let reserved = position(self.reserved().load(Acquire));
        match flags {
            query::AVAIL_DATA => reserved.wrapping_sub(consumed),
            query::RING_SIZE => self.size,
            query::CONS_POS => consumed,
            query::PROD_POS => reserved,
            _ => 0,
        }
    }
}

impl MapKind for Ring {
    /// The consumer's page may be written; behind the producer's page comes
    /// the data, twice.
    fn mmap(&self, offset: u64, len: u64, writable: bool) -> Result<Vec<(u64, u64)>, Errno> {
        if writable && (offset != CONSUMER || len != PAGE) {
            return Err(Errno::EPERM);
        }
        ranges(self.size, offset, len)
    }

    fn ready(&self) -> bool {
        let at_front = || {
            let consumed = self.query(query::CONS_POS);
            let first = Header(self.header(consumed).load(Acquire));
            consumed != self.producer().load(Acquire) && !first.is_busy()
        };
        if at_front() {
            return true;
        }
        if self.is_empty() {
            self.calm();
            return false;
        }
        // Its owner may have left what comes next, or be dead.
        self.advance();
        at_front() || (self.reap_dead() && at_front())
    }

    fn ring(&self) -> Option<&Ring> {
        Some(self)
    }

    fn reclaim(&self) {
        self.reap_dead();
        // Also those claims that dead threads kept for their next record.
        self.bury();
    }
}
