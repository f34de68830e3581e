//! Who holds something in shared memory: the process id, without a system
//! call each time. It knows nothing of what is held.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering};

use shm::sys;

/// The id of this process, cached in a page that a child of fork(2) finds
/// zeroed (`MADV_WIPEONFORK`), so that a child never signs as its parent.
pub(super) struct Owner {
    page: *mut u8,
}

// SAFETY: the page lives as long as the value and holds one atomic.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

const PAGE: usize = 4096;

impl Owner {
    pub fn new() -> Owner {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Owner {
                page: ptr::null_mut(),
            };
        }
        let owner = Owner { page: page.cast() };
        // SAFETY: the page that was just mapped.
        if unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) } != 0 {
            return Owner {
                page: ptr::null_mut(),
            };
        }
        owner
    }

    /// This process.
    #[inline]
    pub fn pid(&self) -> u32 {
        if self.page.is_null() {
            return sys::getpid() as u32;
        }
        // SAFETY: the page lives as long as `self` and is aligned.
        let cached = unsafe { AtomicU32::from_ptr(self.page.cast()) };
        match cached.load(Ordering::Relaxed) {
            0 => {
                let pid = sys::getpid() as u32;
                cached.store(pid, Ordering::Relaxed);
                pid
            }
            pid => pid,
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.page.is_null() {
            // SAFETY: the mapping of `new`, which nothing else refers to.
            unsafe { libc::munmap(self.page.cast(), PAGE) };
        }
    }
}

/// Does process `pid` exist?
pub(super) fn alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0 && sys::alive(pid, pid))
}
