//! The hash of a key: seeded, so that whoever chooses keys cannot choose
//! buckets. It knows no table.

use super::bytes;

/// Odd constants without structure: fractional bits of the square roots of
/// 2, 3 and 5.
const K: [u64; 3] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
];

/// Both halves of the product: each bit of it depends on all bits of both.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

/// Hash of the `len` bytes at `key`.
///
/// # Safety
/// `key` is readable for `len` bytes.
#[inline(always)]
pub(super) unsafe fn hash(key: *const u8, len: usize, seed: u64) -> u32 {
    // What most keys are.
    if len == 8 {
        // SAFETY: the caller's contract.
        return of_word(unsafe { bytes::read_u64(key) }, len, seed);
    }
    if len == 4 {
        // SAFETY: the caller's contract.
        return of_word(u64::from(unsafe { bytes::read_u32(key) }), len, seed);
    }
    // SAFETY: the caller's contract.
    unsafe { of_many(key, len, seed) }
}

/// Hash of a key of 4 or 8 bytes, which are this word's.
#[inline(always)]
pub(super) fn of_word(word: u64, len: usize, seed: u64) -> u32 {
    last(word, seed ^ K[0], len)
}

/// The hash, from the last word of a key and what the words before it gave.
#[inline(always)]
fn last(word: u64, state: u64, len: usize) -> u32 {
    let mixed = fold(word ^ K[1] ^ (len as u64) << 56, state ^ K[2]);
    (fold(mixed, K[0]) >> 16) as u32
}

/// # Safety
/// As [`hash`].
#[inline(never)]
unsafe fn of_many(key: *const u8, len: usize, seed: u64) -> u32 {
    let mut state = seed ^ K[0];
    let mut at = 0;
    while len - at > 8 {
        // SAFETY: in range by the loop's condition.
        let word = unsafe { bytes::read_u64(key.wrapping_add(at)) };
        state = fold(word ^ K[1], state ^ K[2]);
        at += 8;
    }
    if len - at == 8 {
        // SAFETY: in range by the condition.
        return last(unsafe { bytes::read_u64(key.wrapping_add(at)) }, state, len);
    }
    let mut rest = 0;
    if len - at >= 4 {
        // SAFETY: in range by the condition.
        rest = u64::from(unsafe { bytes::read_u32(key.wrapping_add(at)) });
        at += 4;
    }
    while at < len {
        // SAFETY: in range by the loop's condition.
        rest = rest << 8 | u64::from(unsafe { bytes::read_u8(key.wrapping_add(at)) });
        at += 1;
    }
    last(rest, state, len)
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn every_bit_of_a_key_and_its_seed_counts() {
        for len in 1..40usize {
            let key = vec![0u8; len];
            // SAFETY: the vector's length.
            let of = |key: &[u8], seed| unsafe { hash(key.as_ptr(), key.len(), seed) };
            let mut seen = std::collections::HashSet::from([of(&key, 0), of(&key, 1)]);
            for bit in 0..8 * len {
                let mut other = key.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                seen.insert(of(&other, 0));
            }
            assert_eq!(seen.len(), 2 + 8 * len, "a collision at {len} bytes");
        }
    }

    #[test]
    fn counting_keys_spread_evenly() {
        let mut buckets = [0u32; 256];
        for key in 0u32..65536 {
            // SAFETY: the 4 bytes of the key.
            let hash = unsafe { hash(key.to_ne_bytes().as_ptr(), 4, 7) };
            buckets[hash as usize & 255] += 1;
        }
        // 256 each; six standard deviations are 96.
        assert!(
            buckets.iter().all(|&n| (160..352).contains(&n)),
            "{buckets:?}"
        );
    }
}
