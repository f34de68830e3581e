//! A key of a trie: a length in bits and data of which so many bits count. It
//! knows no map. Callable from trampolines: no allocation, no libc, no panic.

use core::mem::MaybeUninit;

use super::{LENGTH, MAX_DATA, bytes};

/// Words of the longest key, and one for what is behind it.
const WORDS: usize = (LENGTH + MAX_DATA) as usize / 8 + 1;

/// A key with zeros in place of the bits that do not count.
pub(super) struct Prefix {
    /// The key; initialised as far as it goes.
    words: MaybeUninit<[u64; WORDS]>,
    /// Bytes of data.
    data: usize,
    length: u32,
}

impl Prefix {
    /// One without a key, whose bytes are not touched yet.
    #[inline]
    pub fn new() -> Prefix {
        Prefix {
            words: MaybeUninit::uninit(),
            data: 0,
            length: 0,
        }
    }

    /// The first `length` bits of the data of a key.
    ///
    /// # Safety
    /// `key` is readable for `size` bytes, which is at least [`LENGTH`] and at
    /// most that and [`MAX_DATA`]; `length` has no more bits than the data.
    #[inline]
    pub unsafe fn set(&mut self, key: *const u8, size: usize, length: u32) {
        self.data = size - LENGTH as usize;
        self.length = 8 * self.data as u32;
        // SAFETY: the caller's contract; the words have room for any key.
        unsafe { bytes::copy(self.words.as_mut_ptr().cast(), key, size) };
        self.shorten(length);
    }

    /// Leaves only the first `length` bits, which are not more than there are.
    #[inline]
    pub fn shorten(&mut self, length: u32) {
        let length = length.min(self.length);
        let whole = (length / 8) as usize;
        let end = (self.length.div_ceil(8) as usize).min(self.data);
        let data = self.words.as_mut_ptr().cast::<u8>();
        let data = data.wrapping_add(LENGTH as usize);
        // SAFETY: `set` initialised `data` bytes, and `whole <= end <= data`;
        // the length lies before them, aligned.
        unsafe {
            if whole < end {
                let partly = data.wrapping_add(whole);
                *partly &= !(0xff >> (length % 8));
                bytes::zero(partly.wrapping_add(1), end - whole - 1);
            }
            self.words.as_mut_ptr().cast::<u32>().write(length);
        }
        self.length = length;
    }

    /// The key, to be hashed and compared.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.words.as_ptr().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::Prefix;

    #[test]
    fn what_does_not_count_is_zero() {
        let key = [[32, 0, 0, 0].as_slice(), &[0xff; 5]].concat();
        let mut prefix = Prefix::new();
        // SAFETY: nine bytes of key.
        unsafe { prefix.set(key.as_ptr(), 9, 35) };
        for length in (0..=35).rev() {
            prefix.shorten(length);
            // SAFETY: as many bytes as were set.
            let bytes = unsafe { core::slice::from_raw_parts(prefix.as_ptr(), 9) };
            assert_eq!(bytes[..4], length.to_le_bytes());
            for bit in 0..40u32 {
                let set = bytes[4 + bit as usize / 8] >> (7 - bit % 8) & 1 == 1;
                assert_eq!(set, bit < length, "bit {bit} of {length}");
            }
        }
    }
}
