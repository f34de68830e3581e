//! Which addresses of the calling thread's stack can be read by a plain load.
//! It knows no helper. [`holds`] is callable from trampolines.
//!
//! Why that is sound: a thread stands on its stack. What lies between its
//! stack pointer and the end of the block that libc gave it holds the frames
//! it will return through and, at the end, its own thread descriptor; so no
//! other thread can take any of it away without ending this one. libc notes
//! the block in that descriptor. The first thread's stack is the kernel's: one
//! mapping that grows downwards, of which everything above a place that was
//! once seen in it stays. Below the guard, on a signal's or a coroutine's
//! stack, and where libc's notes were not understood, nothing is promised.
//!
//! What is not covered is a program that forbids reading parts of the stack it
//! stands on, by mprotect(2) of its own local variables.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::ops::Range;

use crate::arch;

/// Where libc notes the block of a thread's stack: bytes from the thread
/// pointer to {start, size, guard}; 0 while unknown.
static NOTE: AtomicUsize = AtomicUsize::new(0);
/// Lowest address that was seen to belong to the first thread's stack.
static FIRST_LOW: AtomicU64 = AtomicU64::new(u64::MAX);

const WORD: usize = size_of::<u64>();
/// A descriptor is no longer than this.
const DESCRIPTOR: usize = 8192;

/// Finds out where libc makes its notes. Call outside of trampolines, on a
/// thread that libc made and that is not the first.
pub fn init() {
    if NOTE.load(Relaxed) != 0 {
        return;
    }
    if let Some(own) = own_block() {
        NOTE.store(find(&own).unwrap_or(0), Relaxed);
    }
}

/// The calling thread's stack as pthread_getattr_np(3) tells it.
fn own_block() -> Option<Range<usize>> {
    // SAFETY: all zeros is a valid value, and the first call fills it.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    let (mut start, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: asks about this thread; the attributes are initialised by the
    // first call, if that succeeds, and destroyed once.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) != 0 {
            return None;
        }
        let failed =
            libc::pthread_attr_getstack(&raw const attributes, &raw mut start, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        (failed == 0).then_some(start.addr()..start.addr() + size)
    }
}

/// Looks for the only place in this thread's descriptor that says where its
/// stack is.
fn find(own: &Range<usize>) -> Option<usize> {
    let descriptor = arch::thread_pointer();
    // The descriptor is at the end of the block, so the block ends it.
    let room = own.end.checked_sub(descriptor)?.min(DESCRIPTOR) / WORD;
    let word = |index: usize| {
        // SAFETY: between the thread pointer and the end of the block.
        unsafe { ((descriptor + index * WORD) as *const usize).read_volatile() }
    };
    let says = |index: &usize| {
        let (start, size, guard) = (word(*index), word(*index + 1), word(*index + 2));
        let whole = start.checked_add(size) == Some(own.end);
        // Some say that the guard is part of a stack, some that it is not.
        whole && start <= own.start && guard <= size && own.start - start <= guard && start != 0
    };
    let mut places = (0..room.checked_sub(2)?).filter(says);
    let place = places.next()?;
    places.next().is_none().then_some(place * WORD)
}

/// Notes that the first thread's stack reaches down to `low`: the start of the
/// mapping that the kernel calls `[stack]`.
pub fn note_first_thread(low: u64) {
    FIRST_LOW.store(low, Relaxed);
}

/// Can the `len` bytes at `address` be read by plain loads, because they lie
/// on the stack that the calling thread stands on?
#[inline]
pub fn holds(address: u64, len: u64) -> bool {
    let here = arch::stack_pointer();
    address >= here && end().is_some_and(|end| address < end && len <= end - address)
}

/// Where the stack that the calling thread stands on ends.
#[inline]
pub fn end() -> Option<u64> {
    let note = NOTE.load(Relaxed);
    if note == 0 {
        return None;
    }
    let word = |index: usize| {
        let at = arch::thread_pointer() + note + index * WORD;
        // SAFETY: `find` saw that threads' descriptors have these words; a
        // thread's own lives as long as the thread.
        unsafe { (at as *const u64).read_volatile() }
    };
    let (start, size) = (word(0), word(1));
    let end = start.wrapping_add(size);
    // The first thread's block is all below the end.
    let low = match start {
        0 => FIRST_LOW.load(Relaxed),
        start => start.saturating_add(word(2)),
    };
    let here = arch::stack_pointer();
    (low <= here && here < end).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_know_their_own_stacks() {
        std::thread::spawn(init).join().unwrap();
        let local = 7u64;
        let check = || {
            let here = (&raw const local) as u64;
            let below = here - (64 << 10);
            let own = own_block().unwrap();
            let end = end().unwrap() as usize;
            assert_eq!(end, own.end);
            let mine = 1u8;
            let mine = (&raw const mine) as u64;
            assert!(holds(mine, 1) && holds(mine, own.end as u64 - mine));
            assert!(!holds(mine, own.end as u64 - mine + 1));
            assert!(!holds(mine, u64::MAX) && !holds(u64::MAX, 1));
            assert!(!holds(below, 8) || below > mine, "below the stack pointer");
            assert!(!holds(Box::into_raw(Box::new(1u8)) as u64, 1));
        };
        for size in [64 << 10, 1 << 20, 3 << 20] {
            let thread = std::thread::Builder::new().stack_size(size);
            std::thread::scope(|scope| {
                thread.spawn_scoped(scope, check).unwrap().join().unwrap();
            });
        }
    }
}
