//! `BPF_MAP_TYPE_RINGBUF` (kernel/bpf/ringbuf.c), laid out as an unmodified
//! libbpf mmaps it. It knows no reader: whoever is told to wake one does it.
//!
//! Reading order: this file (the ring as helpers and bpf(2) see it), `header`
//! (a record's first word), `claims` (who writes a record), `reap` (what is
//! done for producers that were killed).
//!
//! A record belongs to whom moves `reserved` past it. Its owner then writes
//! its header, and when it is done `producer_pos` moves over all records in a
//! row whose header is there, by whoever sees it. No producer waits for
//! another; one that is preempted before its header holds back the reader no
//! more than a busy record does in the kernel. On the way of a record there
//! are two locked instructions, which are most of what it costs.

mod claims;
mod drain;
mod header;
mod reap;
#[cfg(test)]
mod tests;

use core::ptr;
use shm::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use shm::sync::{AtomicU64, fence};
use shm::{DoubleMapping, Region};
use uapi::Errno;
use uapi::map::{BPF_F_NUMA_NODE, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};

use self::claims::{Claim, Claims};
use self::header::{HEADER, Header};
use super::bytes;
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
/// `RINGBUF_MAX_RECORD_SZ`.
const MAX_RECORD: u64 = u32::MAX as u64 / 4;
/// Records over which one producer moves `producer_pos` at a time.
const ADVANCES: u32 = 1 << 16;
/// Tries to reserve before a record is given up; each means that another
/// producer succeeded.
const TRIES: u32 = 1 << 16;

/// `flags` of `bpf_ringbuf_query`.
mod query {
    pub const AVAIL_DATA: u64 = 0;
    pub const RING_SIZE: u64 = 1;
    pub const CONS_POS: u64 = 2;
    pub const PROD_POS: u64 = 3;
}

/// Our words, in pages after the data that the tool never maps.
mod own {
    /// Position up to which records are reserved.
    pub const RESERVED: u64 = 0;
    /// When the last search for dead producers began, ns of
    /// `CLOCK_MONOTONIC`.
    pub const LAST_REAP: u64 = 64;
    /// Records that found no room.
    pub const DROPPED: u64 = 128;
    /// The claims.
    pub const CLAIMS: u64 = super::PAGE;
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

    /// `bpf_ringbuf_reserve`: room for a record of `size` bytes, null without.
    /// The record must be given to [`Ring::commit`].
    #[inline]
    pub fn reserve(&self, size: u64) -> *mut u8 {
        self.reserve_or_none(size).unwrap_or_else(|| {
            self.own(own::DROPPED).fetch_add(1, Relaxed);
            ptr::null_mut()
        })
    }

    /// Records that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.own(own::DROPPED).load(Relaxed)
    }

    #[inline]
    fn reserve_or_none(&self, size: u64) -> Option<*mut u8> {
        let (claim, position) = self.begin(size)?;
        let header = Header::busy(size as u32, position, self.log2_size, claim.number);
        self.header(position).store(header.0, Release);
        Some(self.bytes(position))
    }

    /// Reserves room for a record of `size` bytes, which has no header yet.
    #[inline]
    fn begin(&self, size: u64) -> Option<(Claim<'_>, u64)> {
        if size > MAX_RECORD {
            return None;
        }
        let len = (size + HEADER).next_multiple_of(8);
        if len > self.size {
            return None;
        }
        let claim = self.claims.take()?;
        let Some(position) = self.take_room(&claim, len) else {
            claim.release();
            return None;
        };
        Some((claim, position))
    }

    /// Where the bytes of the record at `position` are.
    #[inline]
    fn bytes(&self, position: u64) -> *mut u8 {
        // Aligned whatever the words say: programs use atomics on records.
        let offset = (position & (self.size - 1) & !7) + HEADER;
        self.data.as_ptr().wrapping_add(offset as usize)
    }

    /// Reserves `len` bytes: their position, or `None` when the ring is full.
    #[inline]
    fn take_room(&self, claim: &Claim<'_>, len: u64) -> Option<u64> {
        let mut reaped = false;
        for _ in 0..TRIES {
            let position = self.reserved().load(Acquire);
            // Pairs with the consumer's store after it read the records. It is
            // the tool's word and may say anything.
            let consumed = self.consumer().load(Acquire);
            let end = position.wrapping_add(len);
            // As `__bpf_ringbuf_reserve`: never the whole ring.
            if end.wrapping_sub(consumed) > self.size - 1 {
                // A dead producer's record may be what holds the reader.
                if reaped || !self.reap_if_due() {
                    return None;
                }
                reaped = true;
                continue;
            }
            claim.tries(position, len);
            if self
                .reserved()
                .compare_exchange(position, end, SeqCst, Relaxed)
                .is_ok()
            {
                claim.holds(position);
                return Some(position);
            }
        }
        None
    }

    /// Moves `producer_pos` over the record at `position`, whose owner is done
    /// with it, unless records before it have no header yet: then whoever
    /// writes the last of these does it. What is read after this is read after
    /// the record can be seen.
    #[inline]
    fn publish(&self, position: u64, header: Header) {
        self.header(position).store(header.0, Release);
        let next = position.wrapping_add(header.step());
        let moved = self.producer().load(Relaxed) == position
            && self
                .producer()
                .compare_exchange(position, next, SeqCst, Relaxed)
                .is_ok();
        if !moved {
            // Between our header and a look at where `producer_pos` is, as
            // `advance` moves it before it looks at a header: of two producers
            // at the same time, one sees what the other did.
            fence(SeqCst);
        } else if self.reserved().load(SeqCst) == next {
            return;
        }
        self.advance();
    }

    /// Moves `producer_pos` over all records in a row whose headers are there.
    #[cold]
    fn advance(&self) {
        for _ in 0..ADVANCES {
            let position = self.producer().load(SeqCst);
            let left = self.reserved().load(SeqCst).wrapping_sub(position);
            if left == 0 || left > self.size {
                return;
            }
            let header = Header(self.header(position).load(SeqCst));
            if !self.tagged(header, position) || header.step() > left {
                return;
            }
            let next = position.wrapping_add(header.step());
            // Publishes the record; pairs with the consumer's load.
            let _ = self
                .producer()
                .compare_exchange(position, next, SeqCst, Relaxed);
        }
    }

    /// Is `record` what [`Ring::reserve`] of this ring may have returned?
    #[inline]
    pub fn contains(&self, record: *const u8) -> bool {
        self.offset(record).is_some()
    }

    /// Offset in the data of the header of `record`.
    fn offset(&self, record: *const u8) -> Option<u64> {
        let offset = (record.addr() as u64)
            .checked_sub(self.data.as_ptr().addr() as u64)?
            .checked_sub(HEADER)?;
        (offset < self.size && offset.is_multiple_of(8)).then_some(offset)
    }

    /// `bpf_ringbuf_submit` and `bpf_ringbuf_discard`: gives the record to the
    /// reader. `true` if the reader is to be woken.
    #[inline]
    pub fn commit(&self, record: *mut u8, flags: u64, discard: bool) -> bool {
        let Some(offset) = self.offset(record) else {
            return false;
        };
        let header = Header(self.header(offset).load(Relaxed));
        // If we were taken for dead, the record was discarded.
        if let Some((claim, position)) = self.claims.held(header.claim(), offset, self.size - 1)
            && header.is_busy()
            && self.tagged(header, position)
        {
            self.publish(position, header.done(discard));
            // Last: until then, others must know of us should we die.
            claim.release();
        }
        self.wakes(offset, flags)
    }

    /// Is the reader to be woken for the record at `offset`?
    #[inline]
    fn wakes(&self, offset: u64, flags: u64) -> bool {
        match flags & (BPF_RB_FORCE_WAKEUP | BPF_RB_NO_WAKEUP) {
            0 => self.waits_at(offset),
            flags => flags & BPF_RB_FORCE_WAKEUP != 0,
        }
    }

    /// Has the reader read all before the record at `offset`?
    #[inline]
    fn waits_at(&self, offset: u64) -> bool {
        let consumed = self.consumer().load(SeqCst);
        // Whose record the reader waits for may be dead, and rings no bell.
        consumed & (self.size - 1) == offset || !self.is_finished(consumed)
    }

    /// Is there a record at `position` that is not being written any more?
    fn is_finished(&self, position: u64) -> bool {
        let header = Header(self.header(position).load(Acquire));
        self.tagged(header, position) && !header.is_busy()
    }

    /// `bpf_ringbuf_output`: a record with a copy of `len` bytes at `data`.
    /// `true` if the reader is to be woken.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, `EAGAIN` without room.
    ///
    /// # Safety
    /// `data` is readable for `len` bytes.
    pub unsafe fn output(&self, data: *const u8, len: u64, flags: u64) -> Result<bool, Errno> {
        if flags & !(BPF_RB_NO_WAKEUP | BPF_RB_FORCE_WAKEUP) != 0 {
            return Err(Errno::EINVAL);
        }
        let Some((claim, position)) = self.begin(len) else {
            self.own(own::DROPPED).fetch_add(1, Relaxed);
            return Err(Errno::EAGAIN);
        };
        // SAFETY: room for `len` bytes that is ours until the header is there;
        // `data` by the caller's contract.
        unsafe { bytes::copy(self.bytes(position), data, len as usize) };
        let header = Header::busy(len as u32, position, self.log2_size, claim.number);
        self.publish(position, header.done(false));
        claim.release();
        Ok(self.wakes(position & (self.size - 1), flags))
    }

    /// Has the reader consumed everything, also what producers still write?
    pub fn is_empty(&self) -> bool {
        self.reserved().load(Acquire) == self.query(query::CONS_POS)
    }

    /// `bpf_ringbuf_query`: bytes of data to read, size, positions; 0 for
    /// unknown flags. As in the kernel, records that are still being written
    /// count.
    pub fn query(&self, flags: u64) -> u64 {
        let consumed = self.consumer().load(Acquire);
        let reserved = self.reserved().load(Acquire);
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
        let consumed = self.query(query::CONS_POS);
        let at_front = |ring: &Ring| {
            (consumed != ring.producer().load(Acquire))
                .then(|| !Header(ring.header(consumed).load(Acquire)).is_busy())
        };
        let stuck = match at_front(self) {
            Some(true) => return true,
            Some(false) => true,
            None => self.reserved().load(Acquire) != consumed,
        };
        // The producer of what comes next may be dead.
        stuck && self.reap_dead() && at_front(self) == Some(true)
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
