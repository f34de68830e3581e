//! Room for arrays of addresses, without an allocator: on the stack, or, for
//! what is larger, a mapping. It knows no content.

use crate::raw;

/// Words that fit on any stack, that of a signal handler included.
const FEW: usize = 128;
/// Words that fit on most stacks.
const WORDS: usize = 768;

/// Calls `work` with room for so many words, `None` where there is no memory.
///
/// If `work` executes another program in a child of vfork(2), a mapping stays
/// in the parent: only for more than 6 KiB of addresses and texts.
pub fn with<R>(words: usize, work: impl FnOnce(Option<&mut [usize]>) -> R) -> R {
    if words <= FEW {
        return on_stack::<FEW, _>(words, work);
    }
    if words <= WORDS {
        return on_stack::<WORDS, _>(words, work);
    }
    let bytes = words * size_of::<usize>();
    let mapped = raw::checked(
        libc::SYS_mmap,
        [
            0,
            bytes,
            (libc::PROT_READ | libc::PROT_WRITE) as usize,
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize,
            usize::MAX,
            0,
        ],
    );
    let Ok(address) = mapped else {
        return work(None);
    };
    // SAFETY: a mapping of our own of that size, full of zeros, which nobody
    // else knows.
    let room = unsafe { std::slice::from_raw_parts_mut(address as *mut usize, words) };
    let result = work(Some(room));
    raw::call(libc::SYS_munmap, [address, bytes, 0, 0, 0, 0]);
    result
}

/// Not part of its caller, whose stack the larger one would take in any case.
#[inline(never)]
fn on_stack<const WORDS: usize, R>(
    words: usize,
    work: impl FnOnce(Option<&mut [usize]>) -> R,
) -> R {
    let mut room = [0; WORDS];
    work(room.get_mut(..words))
}
