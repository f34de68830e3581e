//! Whose words these are: a child of vfork(2) runs in its parent's memory, but
//! has signal actions of its own. Reachable from trampolines: no allocation, no
//! lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use uapi::Errno;

use crate::arch::{sys, trap};

/// The id of the process that this memory is of, in a page that is zeros in a
/// forked child.
static OWNER: AtomicPtr<AtomicU32> = AtomicPtr::new(core::ptr::null_mut());

/// Makes the calling process the owner.
pub(super) fn init() -> Result<(), Errno> {
    if OWNER.load(Ordering::Acquire).is_null() {
        let page = trap::map_wiped_on_fork()?;
        OWNER.store(page as *mut AtomicU32, Ordering::Release);
    }
    shares_memory();
    Ok(())
}

/// Whether the calling process runs in the memory of another one.
pub(super) fn shares_memory() -> bool {
    // SAFETY: null, or a page that stays mapped for ever.
    let Some(owner) = (unsafe { OWNER.load(Ordering::Acquire).as_ref() }) else {
        return false;
    };
    let pid = sys::getpid();
    match owner.compare_exchange(0, pid, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => false,
        Err(owner) => owner != pid,
    }
}
