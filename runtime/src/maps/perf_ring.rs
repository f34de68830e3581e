//! The ring of one perf event, laid out as perf_event_open(2) mmaps it
//! (include/uapi/linux/perf_event.h, kernel/events/ring_buffer.c). It knows
//! neither the event nor the map that points to it. One writer at a time is
//! the caller's promise (the vCPU claim); a writer that died in the middle of
//! a record has not moved `data_head`, so the next one writes over it.

use shm::Region;
use shm::sync::Ordering;
use uapi::Errno;

use super::bytes;
use super::spec::{PAGE, WORD};

/// Fields of `struct perf_event_mmap_page`.
mod page {
    pub const DATA_HEAD: u64 = 1024;
    pub const DATA_TAIL: u64 = 1032;
    pub const DATA_OFFSET: u64 = 1040;
    pub const DATA_SIZE: u64 = 1048;
}

/// Our own fields, in a page after the data that the tool does not mmap; the
/// words are those of `struct perf_buffer`.
mod own {
    pub const WAKEUP_EVENTS: u64 = 0;
    pub const EVENTS: u64 = 8;
    pub const WAKEUP: u64 = 16;
    /// Records without room that no `PERF_RECORD_LOST` has told yet.
    pub const LOST: u64 = 24;
    /// All records without room.
    pub const DROPPED: u64 = 32;
}

const PERF_RECORD_LOST: u32 = 2;
const PERF_RECORD_SAMPLE: u32 = 9;
const PERF_RECORD_MISC_USER: u16 = 2;
/// `struct perf_event_header`: type u32, misc u16, size u16.
const HEADER: u64 = 8;
/// The size word before the bytes of `PERF_SAMPLE_RAW`.
const RAW_SIZE: u64 = 4;
/// A lost record: header, id, count.
const LOST_RECORD: u64 = HEADER + 16;

/// The ring of one perf event.
pub struct PerfRing {
    storage: Region,
    /// Start of `storage`, valid while it lives.
    base: *mut u8,
    /// Bytes of data: 0 or a power of two, from the length of storage alone.
    size: u64,
}

// SAFETY: `base` points into `storage`, which may be used from any thread; its
// bytes are only touched as `bytes` does or as atomics.
unsafe impl Send for PerfRing {}
// SAFETY: as above.
unsafe impl Sync for PerfRing {}

impl PerfRing {
    /// Bytes of storage for a ring of `data_pages` pages: the first
    /// `1 + data_pages` pages of it are what the tool mmaps.
    pub fn storage_size(data_pages: u32) -> u64 {
        (u64::from(data_pages) + 2) * PAGE
    }

    /// Makes the ring in fresh storage (all zero) of exactly
    /// [`PerfRing::storage_size`]. `wakeup_events`: records for each wake-up,
    /// 0 for one whenever half the ring was written.
    pub fn create(storage: Region, wakeup_events: u32) -> PerfRing {
        let ring = PerfRing::open(storage);
        ring.set(page::DATA_OFFSET, PAGE);
        ring.set(page::DATA_SIZE, ring.size);
        ring.set(ring.own(own::WAKEUP_EVENTS), u64::from(wakeup_events));
        ring
    }

    /// The ring in storage that another process made; believes nothing in it.
    pub fn open(storage: Region) -> PerfRing {
        let size = storage.len().saturating_sub(2 * PAGE);
        let usable = size >= PAGE && size.is_power_of_two();
        PerfRing {
            base: storage.as_ptr(),
            size: if usable { size } else { 0 },
            storage,
        }
    }

    /// Are there records that the reader has not consumed?
    pub fn ready(&self) -> bool {
        self.get(page::DATA_HEAD) != self.get(page::DATA_TAIL)
    }

    /// Records that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.get(self.own(own::DROPPED))
    }

    /// Writes a sample whose raw data are the bytes of `parts`, in order.
    /// `true` if the reader is to be woken.
    ///
    /// # Errors
    /// `ENOSPC` without room (counted, and told by a `PERF_RECORD_LOST` before
    /// the next record), `E2BIG` for records that no header can describe.
    ///
    /// # Safety
    /// Each part is readable for its length; no other writer is in this ring.
    pub unsafe fn output(&self, parts: &[(*const u8, usize)]) -> Result<bool, Errno> {
        let mut len = 0u64;
        for &(_, part) in parts {
            len = len.saturating_add(part as u64);
        }
        // `perf_prepare_sample`: the padding is part of the raw data.
        let record = HEADER
            .saturating_add(RAW_SIZE)
            .saturating_add(len)
            .checked_next_multiple_of(WORD)
            .ok_or(Errno::E2BIG)?;
        let header_size = u16::try_from(record).map_err(|_| Errno::E2BIG)?;

        let head = self.get(page::DATA_HEAD) & !(WORD - 1);
        // Pairs with the reader's store after it copied the records.
        let tail = self.get(page::DATA_TAIL);
        let lost = self.get(self.own(own::LOST));
        let need = record + if lost != 0 { LOST_RECORD } else { 0 };
        // `ring_buffer_has_space`: CIRC_SPACE, which leaves a byte free.
        let mask = self.size.wrapping_sub(1);
        if self.size == 0 || tail.wrapping_sub(head).wrapping_sub(1) & mask < need {
            self.set(self.own(own::LOST), lost.wrapping_add(1));
            self.set(self.own(own::DROPPED), self.dropped().wrapping_add(1));
            return Err(Errno::ENOSPC);
        }

        let mut at = head;
        if lost != 0 {
            self.set(self.own(own::LOST), 0);
            at = self.put_word(at, header(PERF_RECORD_LOST, 0, LOST_RECORD as u16));
            at = self.put_word(at, 0);
            at = self.put_word(at, lost);
        }
        at = self.put_word(
            at,
            header(PERF_RECORD_SAMPLE, PERF_RECORD_MISC_USER, header_size),
        );
        let raw = record.wrapping_sub(HEADER + RAW_SIZE) as u32;
        // SAFETY: the 4 bytes of `raw`.
        at = unsafe { self.put(at, raw.to_ne_bytes().as_ptr(), RAW_SIZE) };
        for &(part, len) in parts {
            // SAFETY: the caller's contract.
            at = unsafe { self.put(at, part, len as u64) };
        }
        let end = head.wrapping_add(need);
        let pad = end.wrapping_sub(at).min(WORD);
        // SAFETY: at most the 8 bytes of the array.
        unsafe { self.put(at, [0; WORD as usize].as_ptr(), pad) };

        let wake = self.count(end);
        // Publishes the record; pairs with the reader's load of `data_head`.
        self.set(page::DATA_HEAD, end);
        Ok(wake)
    }

    /// `perf_output_begin` and `__perf_event_output`: is this the record that
    /// wakes the reader?
    fn count(&self, end: u64) -> bool {
        let mut wake = false;
        let every = self.get(self.own(own::WAKEUP_EVENTS));
        if every != 0 {
            let events = self.get(self.own(own::EVENTS)).wrapping_add(1);
            wake = events >= every;
            self.set(self.own(own::EVENTS), if wake { 0 } else { events });
        }
        let last = self.get(self.own(own::WAKEUP));
        if end.wrapping_sub(last) > self.size / 2 {
            self.set(self.own(own::WAKEUP), end);
            wake = true;
        }
        wake
    }

    fn put_word(&self, at: u64, word: u64) -> u64 {
        // SAFETY: the 8 bytes of `word`.
        unsafe { self.put(at, word.to_ne_bytes().as_ptr(), WORD) }
    }

    /// Copies `len` bytes to position `at` and returns the position behind.
    ///
    /// # Safety
    /// `from` is readable for `len` bytes.
    unsafe fn put(&self, at: u64, from: *const u8, len: u64) -> u64 {
        let offset = at & self.size.wrapping_sub(1);
        let first = len.min(self.size.wrapping_sub(offset));
        let data = self.base.wrapping_add(PAGE as usize);
        // SAFETY: `offset + first <= size`, the data in storage; the rest
        // starts at its beginning and is shorter than the ring, as there was
        // space for it.
        unsafe {
            bytes::copy(data.wrapping_add(offset as usize), from, first as usize);
            bytes::copy(
                data,
                from.wrapping_add(first as usize),
                len.min(self.size).wrapping_sub(first) as usize,
            );
        }
        at.wrapping_add(len)
    }

    /// Offset of one of our own fields.
    fn own(&self, field: u64) -> u64 {
        PAGE.wrapping_add(self.size).wrapping_add(field)
    }

    fn get(&self, offset: u64) -> u64 {
        self.storage
            .u64_at(offset)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn set(&self, offset: u64, value: u64) {
        if let Some(word) = self.storage.u64_at(offset) {
            word.store(value, Ordering::Release);
        }
    }
}

/// `struct perf_event_header` as the word it is.
fn header(kind: u32, misc: u16, size: u16) -> u64 {
    u64::from(kind) | u64::from(misc) << 32 | u64::from(size) << 48
}
