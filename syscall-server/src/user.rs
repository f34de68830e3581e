//! The tool's memory as a caller of system calls names it: addresses that may
//! be wrong, which is EFAULT and never a crash. It knows no attribute.
//!
//! What lies on the caller's own stack is copied right away. Elsewhere a cheap
//! system call says of each page whether it is there. Only a tool that unmaps
//! an argument on another thread during the call would notice the difference
//! from a copy by the kernel; that is made where the cheap calls answer oddly,
//! and of the memory of supervised processes.

mod buffer;
pub mod look;

use runtime::own_stack;
use uapi::Errno;

pub use buffer::Buffer;

use crate::{caller, raw};

/// Most bytes of a path, with its terminating zero (`PATH_MAX`).
pub const PATH_MAX: usize = 4096;

const PAGE: u64 = 4096;

#[derive(Clone, Copy)]
enum Direction {
    In,
    Out,
}

fn copy(address: u64, buffer: *mut u8, len: usize, direction: Direction) -> Result<(), Errno> {
    if len == 0 {
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: buffer.cast(),
        iov_len: len,
    };
    let remote = libc::iovec {
        iov_base: address as *mut libc::c_void,
        iov_len: len,
    };
    let number = match direction {
        Direction::In => libc::SYS_process_vm_readv,
        Direction::Out if !caller::waits() => return Err(Errno::EFAULT),
        Direction::Out => libc::SYS_process_vm_writev,
    };
    let done = raw::call(
        number,
        [
            caller::supervised().unwrap_or_else(shm::sys::getpid) as usize,
            &raw const local as usize,
            1,
            &raw const remote as usize,
            1,
            0,
        ],
    );
    let is_theirs = matches!(direction, Direction::Out) || caller::waits();
    if done == len as isize && is_theirs {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}

/// Whether the caller's memory is that of this process, and there.
fn can_touch(there: impl FnOnce() -> bool) -> bool {
    caller::supervised().is_none() && there()
}

/// Fills `buffer` from `address`.
///
/// # Errors
/// EFAULT when not all of it can be read.
pub fn read(address: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let len = buffer.len();
    if can_touch(|| own_stack::holds(address, len as u64) || look::can_read(address, len)) {
        // SAFETY: there are `len` bytes that can be read, as was just seen; the
        // tool may be writing to them, so nothing refers to them.
        unsafe { std::ptr::copy(address as *const u8, buffer.as_mut_ptr(), len) };
        return Ok(());
    }
    copy(address, buffer.as_mut_ptr(), buffer.len(), Direction::In)
}

/// `len` bytes at `address`.
///
/// # Errors
/// EFAULT when not all of it can be read.
pub fn read_vec(address: u64, len: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; len];
    read(address, &mut bytes)?;
    Ok(bytes)
}

/// The same for a key or a value.
///
/// # Errors
/// As [`read_vec`].
pub fn read_buffer(address: u64, len: usize) -> Result<Buffer, Errno> {
    let mut bytes = Buffer::zeroed(len);
    read(address, &mut bytes)?;
    Ok(bytes)
}

/// An array of `count` words of eight bytes.
///
/// # Errors
/// EFAULT when not all of it can be read.
pub fn read_u64s(address: u64, count: usize) -> Result<Vec<u64>, Errno> {
    let bytes = read_vec(address, count * 8)?;
    let (words, _) = bytes.as_chunks::<8>();
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// A word of four bytes.
///
/// # Errors
/// EFAULT when it cannot be read.
pub fn read_u32(address: u64) -> Result<u32, Errno> {
    let mut word = [0; 4];
    read(address, &mut word)?;
    Ok(u32::from_le_bytes(word))
}

/// Copies `bytes` to `address`.
///
/// # Errors
/// EFAULT when not all of it can be written.
pub fn write(address: u64, bytes: &[u8]) -> Result<(), Errno> {
    let len = bytes.len();
    if can_touch(|| own_stack::holds(address, len as u64) || look::can_write(address, len)) {
        // SAFETY: there is room for `len` bytes, as was just seen, which the
        // tool has given for them.
        unsafe { std::ptr::copy(bytes.as_ptr(), address as *mut u8, len) };
        return Ok(());
    }
    // process_vm_writev only reads the local buffer.
    copy(
        address,
        bytes.as_ptr().cast_mut(),
        bytes.len(),
        Direction::Out,
    )
}

/// The bytes before the terminating zero, of at most `max` bytes with it.
///
/// # Errors
/// EFAULT when memory ends before the string; E2BIG when there is no zero.
pub fn read_string(address: u64, max: usize) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::new();
    while text.len() < max {
        let at = address.wrapping_add(text.len() as u64);
        // Never across a page: the next one may not be there.
        let room = (PAGE - at % PAGE).min((max - text.len()) as u64) as usize;
        let chunk = read_vec(at, room)?;
        if let Some(end) = chunk.iter().position(|&b| b == 0) {
            text.extend_from_slice(&chunk[..end]);
            return Ok(text);
        }
        text.extend_from_slice(&chunk);
    }
    Err(Errno::E2BIG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_bad_addresses() {
        let text = c"/bin/true";
        let address = text.as_ptr() as u64;
        assert_eq!(read_string(address, PATH_MAX), Ok(b"/bin/true".to_vec()));
        assert_eq!(read_string(address, 4), Err(Errno::E2BIG));
        assert_eq!(read_string(0, 16), Err(Errno::EFAULT));
        assert_eq!(read_u32(u64::MAX - 1), Err(Errno::EFAULT));
        assert_eq!(write(address, b"x"), Err(Errno::EFAULT), "read-only memory");
        let mut word = 0u32;
        write(&raw mut word as u64, &7u32.to_le_bytes()).unwrap();
        assert_eq!(read_u32(&raw const word as u64), Ok(7));
    }
}
