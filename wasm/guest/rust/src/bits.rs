//! Bitfields of structures, as bindings that `bpftime gen types --rust` makes
//! read and write them.

/// `width` bits from the bit `start`.
pub fn get(bytes: &[u8], start: usize, width: usize) -> u64 {
    let bit = |at: usize| u64::from(bytes[at / 8] >> (at % 8) & 1);
    (0..width).fold(0, |value, at| value | bit(start + at) << at)
}

/// As [`get`], with the last bit as the sign.
pub fn get_signed(bytes: &[u8], start: usize, width: usize) -> i64 {
    let unused = 64 - width;
    (get(bytes, start, width) << unused).cast_signed() >> unused
}

/// Writes the lower `width` bits of a value from the bit `start` on.
pub fn set(bytes: &mut [u8], start: usize, width: usize, value: u64) {
    for at in 0..width {
        let (byte, mask) = ((start + at) / 8, 1 << ((start + at) % 8));
        match value >> at & 1 {
            0 => bytes[byte] &= !mask,
            _ => bytes[byte] |= mask,
        }
    }
}
