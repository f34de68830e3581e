//! A checked range of a segment. It knows nothing of what lies in it.

use std::sync::Arc;

use crate::segment::Mapping;
use crate::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::{PAGE, sys};

/// A range of shared memory. Every access names an offset and is checked.
#[derive(Clone, Debug)]
pub struct Region {
    mapping: Arc<Mapping>,
    base: *mut u8,
    len: u64,
}

// SAFETY: the range stays mapped as long as `mapping` lives, and is only
// accessed through atomics.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    pub(crate) fn new(mapping: Arc<Mapping>, offset: u64, len: u64) -> Option<Region> {
        let end = offset.checked_add(len)?;
        if end > mapping.len || !offset.is_multiple_of(8) {
            return None;
        }
        // `offset` lies in the mapping.
        let base = mapping.base.wrapping_add(offset as usize);
        Some(Region { mapping, base, len })
    }

    /// Bytes in the range.
    #[inline]
    #[expect(
        clippy::len_without_is_empty,
        reason = "callers ask for sizes, not emptiness"
    )]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where the range starts in this process.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    /// The address of `len` bytes at `offset`.
    #[inline]
    pub fn at(&self, offset: u64, len: u64) -> Option<*mut u8> {
        (offset.checked_add(len)? <= self.len).then(|| self.base.wrapping_add(offset as usize))
    }

    /// A part of this range; `offset` must be a multiple of 8.
    pub fn sub(&self, offset: u64, len: u64) -> Option<Region> {
        self.at(offset, len)?;
        let start = (self.base as u64).wrapping_sub(self.mapping.base as u64);
        Region::new(Arc::clone(&self.mapping), start.checked_add(offset)?, len)
    }

    /// The word at `offset`, a multiple of 4.
    #[inline]
    pub fn u32_at(&self, offset: u64) -> Option<&AtomicU32> {
        let at = self.at(offset, 4)?;
        if !offset.is_multiple_of(4) {
            return None;
        }
        // SAFETY: in range, mapped while `self` lives, aligned (the base is a
        // multiple of 8), and shared memory is only accessed atomically.
        Some(unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// The double word at `offset`, a multiple of 8.
    #[inline]
    pub fn u64_at(&self, offset: u64) -> Option<&AtomicU64> {
        let at = self.at(offset, 8)?;
        if !offset.is_multiple_of(8) {
            return None;
        }
        // SAFETY: as in `u32_at`.
        Some(unsafe { AtomicU64::from_ptr(at.cast()) })
    }

    /// Copies bytes out. Bytes that others write meanwhile may be old or new.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Option<()> {
        let from = self.at(offset, to.len() as u64)?;
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: in range and mapped; byte atomics have no alignment.
            *byte = unsafe { AtomicU8::from_ptr(from.wrapping_add(index)) }.load(Ordering::Relaxed);
        }
        Some(())
    }

    /// Copies bytes in, in no particular order.
    pub fn write(&self, offset: u64, from: &[u8]) -> Option<()> {
        let to = self.at(offset, from.len() as u64)?;
        for (index, byte) in from.iter().enumerate() {
            // SAFETY: in range and mapped; byte atomics have no alignment.
            unsafe { AtomicU8::from_ptr(to.wrapping_add(index)) }.store(*byte, Ordering::Relaxed);
        }
        Some(())
    }

    /// Maps `len` bytes at `offset` twice, back to back, so that a record that
    /// wraps round the end of a ring is contiguous. Both are page multiples.
    pub fn map_double(&self, offset: u64, len: u64) -> Option<DoubleMapping> {
        let from = self.at(offset, len)?;
        if len == 0 || !len.is_multiple_of(PAGE) || !(from as u64).is_multiple_of(PAGE) {
            return None;
        }
        DoubleMapping::new(self.clone(), from, len)
    }
}

/// The same shared bytes at two adjacent address ranges.
#[derive(Debug)]
pub struct DoubleMapping {
    _region: Region,
    base: *mut u8,
    len: u64,
}

// SAFETY: an address range that lives as long as this value; users access it
// through atomics and copies as they do a region.
unsafe impl Send for DoubleMapping {}
// SAFETY: as above.
unsafe impl Sync for DoubleMapping {}

impl DoubleMapping {
    fn new(region: Region, from: *mut u8, len: u64) -> Option<DoubleMapping> {
        let total = len.checked_mul(2)? as usize;
        // SAFETY: a fresh reservation at an address of the kernel's choice.
        let base = unsafe {
            sys::syscall6(
                libc::SYS_mmap as usize,
                0,
                total,
                libc::PROT_NONE as usize,
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as usize,
                usize::MAX,
                0,
            )
        };
        if base < 0 {
            return None;
        }
        let double = DoubleMapping {
            _region: region,
            base: base as *mut u8,
            len,
        };
        for copy in 0..2 {
            let to = base as usize + copy * len as usize;
            // An old size of 0 duplicates a shared mapping (mremap(2)), which
            // needs no fd.
            // SAFETY: the target lies in the reservation made above.
            let ret = unsafe {
                sys::syscall6(
                    libc::SYS_mremap as usize,
                    from as usize,
                    0,
                    len as usize,
                    (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as usize,
                    to,
                    0,
                )
            };
            if ret != to as isize {
                return None;
            }
        }
        // SAFETY: the range was just mapped; a refusal changes nothing else.
        unsafe {
            sys::syscall6(
                libc::SYS_madvise as usize,
                base as usize,
                total,
                libc::MADV_DONTDUMP as usize,
                0,
                0,
                0,
            )
        };
        Some(double)
    }

    /// Where the first copy starts.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base
    }

    /// Bytes of one copy.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "an empty mapping cannot be")]
    pub fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for DoubleMapping {
    fn drop(&mut self) {
        // SAFETY: the reservation of `new`; nothing refers to it any more.
        unsafe {
            sys::syscall6(
                libc::SYS_munmap as usize,
                self.base as usize,
                (self.len * 2) as usize,
                0,
                0,
                0,
                0,
            )
        };
    }
}
