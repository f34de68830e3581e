//! Bytes of a key or a value: most are few and need no allocation.

use std::ops::{Deref, DerefMut};

const FEW: usize = 64;

/// As many bytes as were asked for.
pub enum Buffer {
    /// The first ones of these.
    Few([u8; FEW], usize),
    /// More.
    Many(Vec<u8>),
}

impl Buffer {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Buffer {
        match len <= FEW {
            true => Buffer::Few([0; FEW], len),
            false => Buffer::Many(vec![0; len]),
        }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Buffer::Few(bytes, len) => &bytes[..*len],
            Buffer::Many(bytes) => bytes,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Buffer::Few(bytes, len) => &mut bytes[..*len],
            Buffer::Many(bytes) => bytes,
        }
    }
}
