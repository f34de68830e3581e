//! Copies and comparisons of map keys and values, where other processes may
//! write at the same time. It knows no map.
//!
//! Usable from trampolines: no allocation, no libc call, no panic. Every
//! access is a relaxed atomic of the largest size that both sides are aligned
//! for, so that the compiler may not turn a loop into a call of `memcpy`, and
//! a word that is written whole is read whole.

use shm::sync::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Copies `len` bytes; the ranges do not overlap.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes, now and until return.
#[inline]
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    let both = dst.addr() | src.addr();
    let mut at = 0;
    if both.is_multiple_of(8) {
        while len - at >= 8 {
            // SAFETY: in range by the loop's condition, aligned by the `if`.
            unsafe { word64(dst.add(at)).store(word64(src.add(at)).load(Relaxed), Relaxed) };
            at += 8;
        }
    }
    if both.is_multiple_of(4) {
        while len - at >= 4 {
            // SAFETY: as above; `at` is a multiple of 4.
            unsafe { word32(dst.add(at)).store(word32(src.add(at)).load(Relaxed), Relaxed) };
            at += 4;
        }
    }
    while at < len {
        // SAFETY: in range by the loop's condition.
        unsafe { byte(dst.add(at)).store(byte(src.add(at)).load(Relaxed), Relaxed) };
        at += 1;
    }
}

/// As [`copy`], by words that need not be aligned: for what others do not
/// wait for.
///
/// # Safety
/// As [`copy`]; the ranges may overlap, and then what comes out is undefined.
#[inline]
pub(crate) unsafe fn copy_unaligned(dst: *mut u8, src: *const u8, len: usize) {
    let mut at = 0;
    while len - at >= 8 {
        // SAFETY: in range by the loop's condition.
        unsafe {
            let word = crate::arch::load(src.add(at).cast());
            dst.add(at).cast::<u64>().write_unaligned(word);
        }
        at += 8;
    }
    while at < len {
        // SAFETY: in range by the loop's condition.
        unsafe { byte(dst.add(at)).store(byte(src.add(at)).load(Relaxed), Relaxed) };
        at += 1;
    }
}

/// Writes `len` zeros.
///
/// # Safety
/// `dst` is writable for `len` bytes, now and until return.
#[inline]
pub(crate) unsafe fn zero(dst: *mut u8, len: usize) {
    let mut at = 0;
    if dst.addr().is_multiple_of(8) {
        while len - at >= 8 {
            // SAFETY: in range by the loop's condition, aligned by the `if`.
            unsafe { word64(dst.add(at)).store(0, Relaxed) };
            at += 8;
        }
    }
    while at < len {
        // SAFETY: in range by the loop's condition.
        unsafe { byte(dst.add(at)).store(0, Relaxed) };
        at += 1;
    }
}

/// Are `len` bytes the same?
///
/// # Safety
/// Both sides are readable for `len` bytes, now and until return.
#[inline(always)]
pub(crate) unsafe fn equal(a: *const u8, b: *const u8, len: usize) -> bool {
    // What most keys are.
    match len {
        // SAFETY: the caller's contract.
        8 => unsafe { read_u64(a) == read_u64(b) },
        // SAFETY: as above.
        4 => unsafe { read_u32(a) == read_u32(b) },
        // SAFETY: as above.
        _ => unsafe { equal_many(a, b, len) },
    }
}

/// # Safety
/// As [`equal`].
#[inline(never)]
unsafe fn equal_many(a: *const u8, b: *const u8, len: usize) -> bool {
    let both = a.addr() | b.addr();
    let mut at = 0;
    if both.is_multiple_of(8) {
        while len - at >= 8 {
            // SAFETY: in range by the loop's condition, aligned by the `if`.
            if unsafe { word64(a.add(at)).load(Relaxed) != word64(b.add(at)).load(Relaxed) } {
                return false;
            }
            at += 8;
        }
    }
    if both.is_multiple_of(4) {
        while len - at >= 4 {
            // SAFETY: as above; `at` is a multiple of 4.
            if unsafe { word32(a.add(at)).load(Relaxed) != word32(b.add(at)).load(Relaxed) } {
                return false;
            }
            at += 4;
        }
    }
    while at < len {
        // SAFETY: in range by the loop's condition.
        if unsafe { byte(a.add(at)).load(Relaxed) != byte(b.add(at)).load(Relaxed) } {
            return false;
        }
        at += 1;
    }
    true
}

/// The byte at `src`.
///
/// # Safety
/// `src` is readable.
#[inline]
pub(crate) unsafe fn read_u8(src: *const u8) -> u8 {
    // SAFETY: the caller's contract.
    unsafe { byte(src).load(Relaxed) }
}

/// The `u32` at `src`, aligned or not.
///
/// # Safety
/// `src` is readable for 4 bytes.
#[inline]
pub(crate) unsafe fn read_u32(src: *const u8) -> u32 {
    if src.addr().is_multiple_of(4) {
        // SAFETY: readable by the caller's contract, aligned by the `if`.
        return unsafe { aligned_u32(src) };
    }
    let mut word = 0;
    for at in 0..4 {
        // SAFETY: in range of the 4 bytes.
        word |= u32::from(unsafe { byte(src.add(at)).load(Relaxed) }) << (8 * at);
    }
    word
}

/// The `u64` at `src`, aligned or not.
///
/// # Safety
/// `src` is readable for 8 bytes.
#[inline]
pub(crate) unsafe fn read_u64(src: *const u8) -> u64 {
    if src.addr().is_multiple_of(8) {
        // SAFETY: readable by the caller's contract, aligned by the `if`.
        return unsafe { aligned_u64(src) };
    }
    // SAFETY: two halves of the 8 bytes.
    unsafe { u64::from(read_u32(src)) | u64::from(read_u32(src.add(4))) << 32 }
}

/// The `u32` at `src`, a multiple of 4.
///
/// # Safety
/// `src` is readable for 4 bytes and aligned to 4.
#[inline(always)]
pub(crate) unsafe fn aligned_u32(src: *const u8) -> u32 {
    // SAFETY: the caller's contract.
    unsafe { word32(src).load(Relaxed) }
}

/// The `u64` at `src`, a multiple of 8.
///
/// # Safety
/// `src` is readable for 8 bytes and aligned to 8.
#[inline(always)]
pub(crate) unsafe fn aligned_u64(src: *const u8) -> u64 {
    // SAFETY: the caller's contract.
    unsafe { word64(src).load(Relaxed) }
}

/// # Safety
/// `at` is valid for 8 bytes and aligned to 8.
#[inline]
unsafe fn word64<'a>(at: *const u8) -> &'a AtomicU64 {
    // SAFETY: the caller's contract; shared bytes are only touched as atomics.
    unsafe { &*at.cast() }
}

/// # Safety
/// `at` is valid for 4 bytes and aligned to 4.
#[inline]
unsafe fn word32<'a>(at: *const u8) -> &'a AtomicU32 {
    // SAFETY: the caller's contract; shared bytes are only touched as atomics.
    unsafe { &*at.cast() }
}

/// # Safety
/// `at` is valid for a byte.
#[inline]
unsafe fn byte<'a>(at: *const u8) -> &'a AtomicU8 {
    // SAFETY: the caller's contract; shared bytes are only touched as atomics.
    unsafe { &*at.cast() }
}
