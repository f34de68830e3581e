//! What is kept of one frame. Reachable from trampolines: no allocation, no
//! lock, no libc, no panic.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::arch::stub;
use crate::session::Cookie;
use crate::site::Site;

/// One hijacked frame. Unwind information reads `key` and `return_address`,
/// the stubs in `arch` read and write all of it.
///
/// What a session keeps is an entry of its own, right above the frame's: with
/// the same key and our label as its return address (so that unwinders and the
/// stub take it for a tail call's), `site` twice the probe's id plus one, and
/// `newest` the cookie.
#[repr(C)]
pub(super) struct Entry {
    /// Stack pointer after the return; 0 once popped.
    pub(super) key: AtomicU64,
    pub(super) return_address: AtomicU64,
    pub(super) site: AtomicPtr<Site>,
    /// The newest probe that is to run at its return.
    pub(super) newest: AtomicU64,
}

impl Entry {
    #[inline]
    pub(super) fn frame(&self) -> Frame {
        Frame {
            key: self.key.load(Ordering::Relaxed),
            return_address: self.return_address.load(Ordering::Relaxed),
            site: self.site.load(Ordering::Relaxed),
            newest: self.newest.load(Ordering::Relaxed),
        }
    }

    pub(super) fn set(&self, return_address: u64, site: *mut Site, newest: u64, key: u64) {
        self.return_address.store(return_address, Ordering::Relaxed);
        self.site.store(site, Ordering::Relaxed);
        self.newest.store(newest, Ordering::Relaxed);
        self.key.store(key, Ordering::Release);
    }

    pub(super) fn set_cookie(&self, cookie: &Cookie, key: u64) {
        let site = core::ptr::without_provenance_mut(Entry::mark_of(cookie.id));
        self.set(stub::label(), site, cookie.value, key);
    }

    /// Sites are aligned, so no site's address is odd.
    pub(super) fn mark_of(id: u64) -> usize {
        (id as usize) << 1 | 1
    }

    pub(super) fn is_cookie(&self) -> bool {
        self.site.load(Ordering::Relaxed).addr() & 1 == 1
    }
}

/// What an entry says.
pub(crate) struct Frame {
    pub(crate) key: u64,
    pub(crate) return_address: u64,
    site: *const Site,
    /// Probes with larger ids came after the function was entered.
    pub(crate) newest: u64,
}

impl Frame {
    pub(crate) fn site(&self) -> &'static Site {
        // SAFETY: entries are made from references to sites, which are never freed.
        unsafe { &*self.site }
    }
}
