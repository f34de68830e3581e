//! What programs do: reserve, write, submit or discard. It knows no reader.

use core::ptr;

use shm::sync::Ordering::{Acquire, Relaxed, Release, SeqCst};
use uapi::Errno;
use uapi::map::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};

use super::claims::Claim;
use super::header::{HEADER, Header};
use super::{Ring, SHARED, own, position};
use crate::maps::bytes;

/// `RINGBUF_MAX_RECORD_SZ`.
const MAX_RECORD: u64 = u32::MAX as u64 / 4;
/// Tries to reserve before a record is given up; each means that another
/// producer succeeded.
const TRIES: u32 = 1 << 16;

impl Ring {
    /// `bpf_ringbuf_reserve`: room for a record of `size` bytes, null without.
    /// The record must be given to [`Ring::commit`].
    #[inline]
    pub fn reserve(&self, size: u64) -> *mut u8 {
        let Some((claim, at)) = self.begin(size) else {
            self.own(own::DROPPED).fetch_add(1, Relaxed);
            return ptr::null_mut();
        };
        let header = Header::busy(size as u32, at, self.log2_size, claim.number);
        self.header(at).store(header.0, Release);
        self.bytes(at)
    }

    /// Records that found no room so far.
    pub fn dropped(&self) -> u64 {
        self.own(own::DROPPED).load(Relaxed)
    }

    /// Reserves room for a record of `size` bytes, which has no header yet.
    #[inline]
    pub(super) fn begin(&self, size: u64) -> Option<(Claim<'_>, u64)> {
        if size > MAX_RECORD {
            return None;
        }
        let len = (size + HEADER).next_multiple_of(8);
        if len > self.size {
            return None;
        }
        let claim = self.claims.take()?;
        let Some(at) = self.take_room(&claim, len) else {
            claim.release();
            return None;
        };
        Some((claim, at))
    }

    /// Where the bytes of the record at `at` are.
    #[inline]
    fn bytes(&self, at: u64) -> *mut u8 {
        // Aligned whatever the words say: programs use atomics on records.
        let offset = (at & (self.size - 1) & !7) + HEADER;
        self.data.as_ptr().wrapping_add(offset as usize)
    }

    /// Reserves `len` bytes: their position, or `None` when the ring is full.
    #[inline]
    fn take_room(&self, claim: &Claim<'_>, len: u64) -> Option<u64> {
        let mut reaped = false;
        for _ in 0..TRIES {
            // Pairs with the consumer's store after it read the records. It is
            // the tool's word and may say anything. Before `reserved`, which it
            // is never ahead of then.
            let consumed = self.consumer().load(Acquire);
            let reserved = self.reserved().load(Acquire);
            let at = position(reserved);
            let end = at.wrapping_add(len);
            // As `__bpf_ringbuf_reserve`: never the whole ring.
            if end.wrapping_sub(consumed) > self.size - 1 {
                if self.consumer().load(Relaxed) != consumed {
                    continue;
                }
                // A dead producer's record may be what holds the reader.
                if reaped || !self.reap_if_due() {
                    return None;
                }
                reaped = true;
                continue;
            }
            claim.tries(at, len);
            if self
                .reserved()
                .compare_exchange(reserved, end | (reserved & SHARED), SeqCst, Relaxed)
                .is_ok()
            {
                claim.holds(at);
                return Some(at);
            }
        }
        None
    }

    /// Is `record` what [`Ring::reserve`] of this ring may have returned?
    #[inline]
    pub fn contains(&self, record: *const u8) -> bool {
        self.offset(record).is_some()
    }

    /// Offset of the header of `record` in the data.
    #[inline]
    fn offset(&self, record: *const u8) -> Option<u64> {
        let offset = (record.addr() as u64)
            .checked_sub(self.data.as_ptr().addr() as u64)?
            .checked_sub(HEADER)?;
        (offset < self.size && offset.is_multiple_of(8)).then_some(offset)
    }

    /// `bpf_ringbuf_submit` and `bpf_ringbuf_discard`: gives the record to the
    /// reader. `true` if the tool is to be woken.
    #[inline]
    pub fn commit(&self, record: *mut u8, flags: u64, discard: bool) -> bool {
        let Some(offset) = self.offset(record) else {
            return false;
        };
        let header = Header(self.header(offset).load(Relaxed));
        let mut others = false;
        // If we were taken for dead, the record was discarded.
        if let Some((claim, at)) = self.claims.held(header.claim(), offset, self.size - 1)
            && header.is_busy()
        {
            others = self.publish(at, header.done(discard), is_quiet(flags));
            // Last: until then, others must know of us should we die.
            claim.release();
        }
        self.wakes(offset, flags) || others
    }

    /// Is the reader to be woken for the record at `offset`?
    #[inline]
    fn wakes(&self, offset: u64, flags: u64) -> bool {
        match flags & (BPF_RB_FORCE_WAKEUP | BPF_RB_NO_WAKEUP) {
            // Has it read all before?
            0 => self.consumer().load(Acquire) & (self.size - 1) == offset,
            flags => flags & BPF_RB_FORCE_WAKEUP != 0,
        }
    }

    /// `bpf_ringbuf_output`: a record with a copy of `len` bytes at `data`.
    /// `true` if the tool is to be woken.
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
        let Some((claim, at)) = self.begin(len) else {
            self.own(own::DROPPED).fetch_add(1, Relaxed);
            return Err(Errno::EAGAIN);
        };
        // SAFETY: room for `len` bytes that is ours until the header is there;
        // `data` by the caller's contract.
        unsafe { bytes::copy(self.bytes(at), data, len as usize) };
        let header = Header::busy(len as u32, at, self.log2_size, claim.number);
        let others = self.publish(at, header.done(false), is_quiet(flags));
        claim.release();
        Ok(self.wakes(at & (self.size - 1), flags) || others)
    }
}

/// Whether the reader is not to be woken for the record.
fn is_quiet(flags: u64) -> bool {
    flags & (BPF_RB_FORCE_WAKEUP | BPF_RB_NO_WAKEUP) == BPF_RB_NO_WAKEUP
}
