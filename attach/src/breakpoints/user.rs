//! The program's memory behind the pointers of its system calls, which may be
//! bad. Reachable from trampolines: no allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use uapi::Errno;

use crate::arch::trap;

/// Copies from the program's memory.
pub(crate) fn read(from: u64, to: &mut [u8]) -> Result<(), Errno> {
    // SAFETY: the kernel checks the other side and writes to `to` only.
    unsafe { trap::copy(from, to.as_mut_ptr() as u64, to.len(), false) }
}

/// Copies to the program's memory.
pub(crate) fn write(to: u64, from: &[u8]) -> Result<(), Errno> {
    // SAFETY: the kernel checks the other side, which the program gave to be
    // written to.
    unsafe { trap::copy(to, from.as_ptr() as u64, from.len(), true) }
}

/// A word of the program's memory.
pub(crate) fn read_word(from: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    read(from, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
