//! A key that is looked for: any bytes, or a word, for which the way to its
//! element is a few instructions. It knows no table.

use super::super::{bytes, hasher};

/// What a table is searched for.
pub(in crate::maps) trait Key: Copy {
    /// Its hash in a table with this seed.
    fn hash(self, seed: u64) -> u32;

    /// Whether it is the key of an element.
    ///
    /// # Safety
    /// `at` is that key: as long as this one, at a multiple of 8.
    unsafe fn is_at(self, at: *const u8) -> bool;
}

/// A key of any length.
#[derive(Clone, Copy)]
pub(in crate::maps) struct Any {
    at: *const u8,
    len: usize,
}

impl Any {
    /// # Safety
    /// `at` is readable for `len` bytes as long as this is used.
    #[inline(always)]
    pub unsafe fn new(at: *const u8, len: usize) -> Any {
        Any { at, len }
    }
}

impl Key for Any {
    #[inline(always)]
    fn hash(self, seed: u64) -> u32 {
        // SAFETY: `new`'s contract.
        unsafe { hasher::hash(self.at, self.len, seed) }
    }

    #[inline(always)]
    unsafe fn is_at(self, at: *const u8) -> bool {
        // SAFETY: the caller's contract, and `new`'s.
        unsafe { bytes::equal(at, self.at, self.len) }
    }
}

/// A key of `BYTES` bytes, 4 or 8, that lies at a multiple of them.
#[derive(Clone, Copy)]
pub(in crate::maps) struct Word<const BYTES: usize>(u64);

impl<const BYTES: usize> Word<BYTES> {
    /// `None` for a key that does not lie so.
    ///
    /// # Safety
    /// As [`Any::new`].
    #[inline(always)]
    pub unsafe fn new(at: *const u8) -> Option<Word<BYTES>> {
        const { assert!(BYTES == 4 || BYTES == 8) };
        if at.is_null() || !at.addr().is_multiple_of(BYTES) {
            return None;
        }
        // SAFETY: the caller's contract, and aligned.
        Some(Word(unsafe { Self::read(at) }))
    }

    /// # Safety
    /// `at` is readable for a word and at a multiple of its bytes.
    #[inline(always)]
    unsafe fn read(at: *const u8) -> u64 {
        match BYTES {
            // SAFETY: the caller's contract.
            4 => u64::from(unsafe { bytes::aligned_u32(at) }),
            // SAFETY: as above.
            _ => unsafe { bytes::aligned_u64(at) },
        }
    }
}

impl<const BYTES: usize> Key for Word<BYTES> {
    #[inline(always)]
    fn hash(self, seed: u64) -> u32 {
        hasher::of_word(self.0, BYTES, seed)
    }

    #[inline(always)]
    unsafe fn is_at(self, at: *const u8) -> bool {
        // SAFETY: the caller's contract.
        unsafe { Self::read(at) == self.0 }
    }
}
