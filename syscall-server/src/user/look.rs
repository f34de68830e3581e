//! Whether memory is there, by system calls that do nothing but touch it, a
//! third as dear as a copy by process_vm_readv(2). It knows no caller.

use std::sync::OnceLock;

use uapi::Errno;

use crate::raw;

const PAGE: u64 = 4096;
/// Bytes that a look at readable memory takes: a signal set.
const SET: u64 = 8;
/// Bytes that a look at writable memory leaves: the number of a CPU.
const CPU: u64 = 4;
/// No way to change a signal mask.
const NO_WAY: usize = 0x7fff;
/// Longer memory is copied by the kernel.
const MOST: usize = 16 * PAGE as usize;

/// Can the `len` bytes at `address` be read now?
pub fn can_read(address: u64, len: usize) -> bool {
    usable() && pages(address, len).is_some_and(|mut pages| pages.all(|at| reads(at & !(SET - 1))))
}

/// Can a word at `address` be read now, for all that the calls tell? For code
/// that has no other way. Not the first caller ever, takes no lock.
pub fn may_read(address: u64) -> bool {
    !usable() || reads(address & !(SET - 1))
}

/// Can they be written? Their contents may be lost.
pub fn can_write(address: u64, len: usize) -> bool {
    let Some(last) = address
        .checked_add(len as u64)
        .and_then(|end| end.checked_sub(CPU))
    else {
        return false;
    };
    len as u64 >= CPU
        && usable()
        && pages(address, len).is_some_and(|mut pages| pages.all(|at| writes(at.min(last))))
}

/// An address in each page of the `len` bytes at `address`; `None` for none
/// and for too many, and where null would be among them, which the calls pass
/// over.
fn pages(address: u64, len: usize) -> Option<impl Iterator<Item = u64>> {
    let end = address.checked_add(len as u64)?;
    let next = (address | (PAGE - 1)).checked_add(1)?;
    let behind = (next..end.max(next)).step_by(PAGE as usize);
    let fits = (1..=MOST).contains(&len) && address >= PAGE;
    fits.then(|| std::iter::once(address).chain(behind))
}

/// rt_sigprocmask(2) reads the set before it finds that it is not to use it.
fn reads(address: u64) -> bool {
    look_at(address) == Err(Errno::EINVAL)
}

fn look_at(address: u64) -> Result<usize, Errno> {
    let args = [NO_WAY, address as usize, 0, SET as usize, 0, 0];
    raw::checked(libc::SYS_rt_sigprocmask, args)
}

/// getcpu(2) writes four bytes.
fn writes(address: u64) -> bool {
    raw::checked(libc::SYS_getcpu, [address as usize, 0, 0, 0, 0, 0]) == Ok(0)
}

/// Do the calls answer as Linux does? Sandboxes may not.
fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        let mut word = [0u64; 2];
        let there = word.as_mut_ptr() as u64;
        let text = usable as *const () as u64;
        reads(there)
            && writes(there)
            && look_at(SET) == Err(Errno::EFAULT)
            && reads(text & !(SET - 1))
            && !writes(text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pages, of which the second may not be written, before one that may
    /// not be touched.
    fn three_pages() -> u64 {
        let bytes = 3 * PAGE as usize;
        let (all, one) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ);
        // SAFETY: a new mapping of our own, of which nothing is used.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let at = libc::mmap(std::ptr::null_mut(), bytes, all, flags, -1, 0);
            assert_ne!(at, libc::MAP_FAILED);
            assert_eq!(
                libc::mprotect(at.byte_add(PAGE as usize), PAGE as usize, one),
                0
            );
            assert_eq!(
                libc::mprotect(at.byte_add(2 * PAGE as usize), PAGE as usize, 0),
                0
            );
            at as u64
        }
    }

    #[test]
    fn every_page_counts() {
        assert!(usable());
        let at = three_pages();
        let (second, third) = (at + PAGE, at + 2 * PAGE);
        for len in [1, 3, 4, 8, 100, 4096] {
            let bytes = len as u64;
            assert!(can_read(at, len) && can_read(third - bytes, len), "{len}");
            assert!(
                !can_read(third - bytes + 1, len) && !can_read(third, len),
                "{len}"
            );
            assert_eq!(can_write(second - bytes, len), len >= 4, "{len}");
            assert!(!can_write(second - bytes + 1, len), "{len}");
            assert!(!can_write(third - bytes, len), "{len}");
        }
        assert!(can_read(at, 8192) && !can_read(at, 8193) && !can_write(at, 8192));
        assert!(!can_read(u64::MAX - 3, 8) && !can_write(u64::MAX - 3, 8));
        assert!(!can_read(0, 1) && !can_write(0, 4) && !can_read(at, 0));
    }
}
