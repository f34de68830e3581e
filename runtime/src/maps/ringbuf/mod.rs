//! `BPF_MAP_TYPE_RINGBUF` (kernel/bpf/ringbuf.c), laid out as an unmodified
//! libbpf mmaps it. It knows no reader: whoever is told to wake one does it.
//!
//! Reading order: this file (the ring as helpers and bpf(2) see it), `header`
//! (a record's first word), `claims` (who writes a record), `reap` (what is
//! done for producers that were killed).
//!
//! A record belongs to whom moves `reserved` past it. Its owner then writes
//! its header, and `producer_pos` moves over all records in a row whose header
//! is there, by whoever sees it. No producer waits for another; one that is
//! preempted before its header holds back the reader no more than a busy
//! record does in the kernel.

mod claims;
mod header;
mod reap;

use core::ptr;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

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

fn storage_size(spec: &MapSpec, _nr_cpus: u32) -> Result<u64, Errno> {
    let size = u64::from(spec.max_entries);
    if spec.map_flags & !BPF_F_NUMA_NODE != 0
        || spec.key_size != 0
        || spec.value_size != 0
        || !size.is_power_of_two()
        || !size.is_multiple_of(PAGE)
    {
        return Err(Errno::EINVAL);
    }
    Ok(DATA + size + own::CLAIMS + Claims::BYTES)
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
    storage: Region,
    /// The data twice, so that every record is in one piece.
    data: DoubleMapping,
    /// Bytes of data, a power of two.
    size: u64,
    log2_size: u32,
    claims: Claims,
}

impl Ring {
    fn new(storage: Region, size: u64) -> Option<Ring> {
        crate::thread::init();
        Some(Ring {
            data: storage.map_double(DATA, size)?,
            claims: Claims::new(storage.sub(DATA + size + own::CLAIMS, Claims::BYTES)?),
            size,
            log2_size: size.trailing_zeros(),
            storage,
        })
    }

    #[inline]
    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        self.storage.u64_at(offset)
    }

    #[inline]
    fn own(&self, field: u64) -> Option<&AtomicU64> {
        self.storage.u64_at(DATA + self.size + field)
    }

    /// The header of the record at `position`, a multiple of 8.
    #[inline]
    fn header(&self, position: u64) -> Option<&AtomicU64> {
        self.storage.u64_at(DATA + (position & (self.size - 1)))
    }

    fn tagged(&self, header: Header, position: u64) -> bool {
        header.is_at(position, self.log2_size)
    }

    /// `bpf_ringbuf_reserve`: room for a record of `size` bytes, null without.
    /// The record must be given to [`Ring::commit`].
    #[inline]
    pub fn reserve(&self, size: u64) -> *mut u8 {
        self.reserve_or_none(size).unwrap_or_else(|| {
            if let Some(dropped) = self.own(own::DROPPED) {
                dropped.fetch_add(1, Relaxed);
            }
            ptr::null_mut()
        })
    }

    /// Records that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.own(own::DROPPED)
            .map_or(0, |dropped| dropped.load(Relaxed))
    }

    fn reserve_or_none(&self, size: u64) -> Option<*mut u8> {
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
        let header = Header::busy(size as u32, position, self.log2_size, claim.number);
        // Stored before `advance` looks at the headers of others: of two
        // producers that store at the same time, the later one sees both.
        self.header(position)?.swap(header.0, SeqCst);
        self.advance();
        let offset = (position & (self.size - 1)) + HEADER;
        Some(self.data.as_ptr().wrapping_add(offset as usize))
    }

    /// Reserves `len` bytes: their position, or `None` when the ring is full.
    fn take_room(&self, claim: &Claim<'_>, len: u64) -> Option<u64> {
        let reserved = self.own(own::RESERVED)?;
        let consumer = self.word(CONSUMER)?;
        let mut reaped = false;
        for _ in 0..TRIES {
            let position = reserved.load(Acquire);
            // Pairs with the consumer's store after it read the records. It is
            // the tool's word and may say anything.
            let consumed = consumer.load(Acquire);
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
            if reserved
                .compare_exchange(position, end, SeqCst, Relaxed)
                .is_ok()
            {
                claim.holds(position);
                return Some(position);
            }
        }
        None
    }

    /// Moves `producer_pos` over all records in a row whose headers are there.
    fn advance(&self) {
        let (Some(producer), Some(reserved)) = (self.word(PRODUCER), self.own(own::RESERVED))
        else {
            return;
        };
        for _ in 0..ADVANCES {
            let position = producer.load(SeqCst);
            let left = reserved.load(SeqCst).wrapping_sub(position);
            if left == 0 || left > self.size {
                return;
            }
            let Some(header) = self.header(position & !7) else {
                return;
            };
            let header = Header(header.load(SeqCst));
            if !self.tagged(header, position) || header.step() > left {
                return;
            }
            let next = position.wrapping_add(header.step());
            // Publishes the record; pairs with the consumer's load.
            let _ = producer.compare_exchange(position, next, SeqCst, Relaxed);
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
    pub fn commit(&self, record: *mut u8, flags: u64, discard: bool) -> bool {
        let Some(offset) = self.offset(record) else {
            return false;
        };
        let (Some(word), Some(consumer)) = (self.header(offset), self.word(CONSUMER)) else {
            return false;
        };
        let header = Header(word.load(Relaxed));
        // Publishes the record's bytes; pairs with the consumer's load of the
        // header. Fails if we were taken for dead and the record was discarded.
        if header.is_busy()
            && word
                .compare_exchange(header.0, header.done(discard).0, SeqCst, Relaxed)
                .is_ok()
        {
            self.claims.release(header.claim(), offset, self.size - 1);
        }
        if flags & BPF_RB_FORCE_WAKEUP != 0 {
            return true;
        }
        let consumed = consumer.load(SeqCst);
        let caught_up = consumed & (self.size - 1) == offset;
        // Whose record the reader waits for may be dead, and rings no bell.
        (caught_up || !self.is_finished(consumed)) && flags & BPF_RB_NO_WAKEUP == 0
    }

    /// Is there a record at `position` that is not being written any more?
    fn is_finished(&self, position: u64) -> bool {
        self.header(position & !7).is_some_and(|word| {
            let header = Header(word.load(Acquire));
            self.tagged(header, position) && !header.is_busy()
        })
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
        let record = self.reserve(len);
        if record.is_null() {
            return Err(Errno::EAGAIN);
        }
        // SAFETY: `record` is room for `len` bytes that is ours until commit;
        // `data` by the caller's contract.
        unsafe { bytes::copy(record, data, len as usize) };
        Ok(self.commit(record, flags, false))
    }

    /// Has the reader consumed everything, also what producers still write?
    pub fn is_empty(&self) -> bool {
        let reserved = self.own(own::RESERVED).map_or(0, |word| word.load(Acquire));
        reserved == self.query(query::CONS_POS)
    }

    /// `bpf_ringbuf_query`: bytes of data to read, size, positions; 0 for
    /// unknown flags.
    pub fn query(&self, flags: u64) -> u64 {
        let at = |offset| self.word(offset).map_or(0, |word| word.load(Acquire));
        match flags {
            query::AVAIL_DATA => at(PRODUCER).wrapping_sub(at(CONSUMER)),
            query::RING_SIZE => self.size,
            query::CONS_POS => at(CONSUMER),
            query::PROD_POS => at(PRODUCER),
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
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        let again = DATA + self.size;
        if !offset.is_multiple_of(PAGE) || end > again + self.size {
            return Err(Errno::EINVAL);
        }
        let mut ranges = Vec::new();
        if offset < again {
            ranges.push((offset, end.min(again) - offset));
        }
        if end > again {
            let from = offset.max(again);
            ranges.push((from - self.size, end - from));
        }
        Ok(ranges)
    }

    fn ready(&self) -> bool {
        let consumed = self.query(query::CONS_POS);
        let at_front = |ring: &Ring| {
            let header = ring.header(consumed & !7)?;
            (consumed != ring.query(query::PROD_POS))
                .then(|| !Header(header.load(Acquire)).is_busy())
        };
        let stuck = match at_front(self) {
            Some(true) => return true,
            Some(false) => true,
            None => self.own(own::RESERVED).map_or(0, |word| word.load(Acquire)) != consumed,
        };
        // The producer of what comes next may be dead.
        stuck && self.reap_dead() && at_front(self) == Some(true)
    }

    fn ring(&self) -> Option<&Ring> {
        Some(self)
    }

    fn reclaim(&self) {
        self.reap_dead();
    }
}
