//! Frames come and are found again. Reachable from trampolines: no allocation,
//! no lock, no libc, no panic.

use core::sync::atomic::{Ordering, compiler_fence};

use super::entry::{Entry, Frame};
use super::{DEPTH, Shadow, all, gone};
use crate::arch::stub;
use crate::arch::thread::Thread;
use crate::session::Cookie;
use crate::site::Site;

/// The newest entry of the calling thread.
pub(crate) struct Newest {
    shadow: &'static Shadow,
    entry: &'static Entry,
}

impl Newest {
    #[inline]
    pub(crate) fn frame(&self) -> Frame {
        self.entry.frame()
    }

    #[inline]
    pub(crate) fn pop(self) {
        let entry = core::ptr::from_ref(self.entry).cast_mut();
        // Signal handlers leave the stack as they found it, and a coroutine
        // that a handler switches to may have put entries above.
        // SAFETY: `entry` is an entry, so there is one place more above it.
        if self.shadow.top.load(Ordering::Relaxed) == unsafe { entry.add(1) } {
            self.entry.key.store(0, Ordering::Relaxed);
            compiler_fence(Ordering::SeqCst);
            self.shadow.top.store(entry, Ordering::Release);
        } else {
            self.entry.key.store(0, Ordering::Relaxed);
            self.shadow
                .close_gap(entry, self.shadow.top.load(Ordering::Relaxed), |key| {
                    key != 0
                });
        }
    }
}

impl Shadow {
    /// Takes the return address at `sp` (the slot) for `site`, with what its
    /// sessions keep, and puts the stub's label there. False if there is no
    /// room: the slot is unchanged.
    ///
    /// # Safety
    /// `sp` points to the return address of a function that has just been
    /// called and will be entered through the return stub.
    pub(crate) unsafe fn push(&self, sp: u64, site: &Site, newest: u64, kept: &[Cookie]) -> bool {
        let shadow = self;
        let slot = sp as *mut u64;
        let key = sp + 8;
        // SAFETY: the caller's contract.
        let return_address = unsafe { slot.read_volatile() };
        let mut top = shadow.top.load(Ordering::Relaxed);
        // SAFETY: a sentinel with the highest key lies below `base`.
        if unsafe { &*top.sub(1) }.key.load(Ordering::Relaxed) <= key {
            top = shadow.reap(key, return_address);
            // SAFETY: as above.
            if unsafe { &*top.sub(1) }.key.load(Ordering::Relaxed) < key {
                shadow.sorted.store(top, Ordering::Relaxed);
            }
        }
        let needed = 1 + kept.len();
        if shadow.room(top) < needed {
            top = shadow.make_room();
            if shadow.room(top) < needed {
                return false;
            }
        }
        // A tail call leaves the true address to where it is.
        if gone::do_frames_move() && return_address != stub::label() {
            shadow.forget_elsewhere(key);
        }
        let site = core::ptr::from_ref(site).cast_mut();
        // SAFETY: `base <= top < end`, in the mapping.
        unsafe { &*top }.set(return_address, site, newest, key);
        for (cookie, above) in kept.iter().zip(1..) {
            // SAFETY: there is room for all.
            unsafe { &*top.add(above) }.set_cookie(cookie, key);
        }
        compiler_fence(Ordering::SeqCst);
        // SAFETY: at most `end`.
        let above = unsafe { top.add(needed) };
        shadow.top.store(above, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the caller's contract.
        unsafe { slot.write_volatile(stub::label()) };
        true
    }

    /// Entries that are left above `top`.
    fn room(&self, top: *mut Entry) -> usize {
        // SAFETY: both in the mapping, `top` not above the end of the entries.
        unsafe { self.base.add(DEPTH).offset_from_unsigned(top) }
    }

    /// The thread's newest frame, if it is the one with `key` and no tail call's.
    #[inline]
    pub(crate) fn newest(thread: &Thread, key: u64) -> Option<Newest> {
        // SAFETY: `Thread::shadow` is null or a linked stack, never unmapped.
        let shadow: &'static Shadow = unsafe { thread.shadow.get().as_ref() }?;
        // SAFETY: a sentinel with the highest key lies below `base`.
        let entry: &'static Entry = unsafe { &*shadow.top.load(Ordering::Relaxed).sub(1) };
        let is_it = entry.key.load(Ordering::Relaxed) == key
            && entry.return_address.load(Ordering::Relaxed) != stub::label();
        is_it.then_some(Newest { shadow, entry })
    }

    /// The true return address of the frame with `key`, behind tail calls.
    pub(crate) fn return_address(thread: &Thread, key: u64) -> u64 {
        loop {
            // The stack was copied or switched under us; nobody knows where to
            // go. The kernel does the same (uprobe_handle_trampoline, 6.18).
            let Some((entry, _)) = find(thread, key, true) else {
                stub::lost()
            };
            let return_address = entry.return_address.load(Ordering::Acquire);
            // Another thread's entries move.
            if entry.key.load(Ordering::Acquire) == key {
                return return_address;
            }
        }
    }

    /// The newest frame with `key`.
    pub(crate) fn last(thread: &Thread, key: u64) -> Frame {
        loop {
            let Some((entry, _)) = find(thread, key, false) else {
                stub::lost()
            };
            let frame = entry.frame();
            // As in `return_address`.
            if entry.key.load(Ordering::Acquire) == key {
                return frame;
            }
        }
    }

    /// Where a session of the newest frame with `key` has its cookie.
    pub(crate) fn cookie(thread: &Thread, key: u64, id: u64) -> Option<*mut u64> {
        let (entry, shadow) = find(thread, key, false)?;
        let mark = Entry::mark_of(id);
        let mut cookies = shadow.cookies_of(entry);
        let found = cookies.find(|cookie| cookie.site.load(Ordering::Relaxed).addr() == mark);
        found.map(|cookie| cookie.newest.as_ptr())
    }

    /// The cookies of a frame.
    fn cookies_of<'a>(&'a self, frame: &Entry) -> impl Iterator<Item = &'a Entry> {
        let key = frame.key.load(Ordering::Relaxed);
        let top = self.top.load(Ordering::Relaxed).cast_const();
        let mut at = core::ptr::from_ref(frame);
        core::iter::from_fn(move || {
            // SAFETY: `frame` is below `top`, and `at` not above it.
            at = unsafe { at.add(1) };
            if at >= top {
                return None;
            }
            // SAFETY: an entry of the mapping; all bit patterns are valid.
            let entry = unsafe { &*at };
            (entry.is_cookie() && entry.key.load(Ordering::Relaxed) == key).then_some(entry)
        })
    }

    /// Removes the newest frame with `key` and its cookies.
    pub(crate) fn pop(thread: &Thread, key: u64) {
        let own = thread.shadow.get().cast_const();
        let (entry, shadow) = loop {
            let Some((entry, shadow)) = find(thread, key, false) else {
                return;
            };
            if core::ptr::eq(shadow, own) {
                break (entry, shadow);
            }
            gone::frames_move();
            // Its owner may move it just now. The owner drops its cookies.
            let relaxed = Ordering::Relaxed;
            let popped = entry
                .key
                .compare_exchange(key, 0, Ordering::SeqCst, relaxed);
            if popped.is_ok() {
                return;
            }
        };
        let group = 1 + shadow.cookies_of(entry).count();
        let bottom = core::ptr::from_ref(entry).cast_mut();
        for at in (0..group).rev() {
            // SAFETY: the group's entries lie one after the other.
            unsafe { &*bottom.add(at) }.key.store(0, Ordering::Relaxed);
        }
        compiler_fence(Ordering::SeqCst);
        let top = shadow.top.load(Ordering::Relaxed);
        // SAFETY: at most `top`.
        if unsafe { bottom.add(group) } == top {
            shadow.top.store(bottom, Ordering::Release);
        } else {
            shadow.close_gap(bottom, top, |key| key != 0);
        }
    }

    /// Entries from the newest to the oldest.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        let mut at = self.top.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            if at <= self.base {
                return None;
            }
            // SAFETY: above `base`.
            at = unsafe { at.sub(1) };
            // SAFETY: an entry of the mapping; all bit patterns are valid.
            Some(unsafe { &*at })
        })
    }
}

/// The newest frame with `key`, of this thread or, for a coroutine that has
/// moved, of any. With `outermost`, the newest that is not a tail call's.
fn find(thread: &Thread, key: u64, outermost: bool) -> Option<(&'static Entry, &'static Shadow)> {
    let label = stub::label();
    let fits = |entry: &&Entry| {
        entry.key.load(Ordering::Acquire) == key
            && !entry.is_cookie()
            && !(outermost && entry.return_address.load(Ordering::Relaxed) == label)
    };
    // SAFETY: `Thread::shadow` is null or a linked stack, never unmapped.
    let own: Option<&'static Shadow> = unsafe { thread.shadow.get().as_ref() };
    let in_own = own.and_then(|shadow| shadow.entries().find(fits).map(|entry| (entry, shadow)));
    in_own.or_else(|| {
        all().find_map(|shadow| shadow.entries().find(fits).map(|entry| (entry, shadow)))
    })
}

/// The address that the function whose return address lies at `slot` really
/// returns to. For stack walkers: `found` is what they read from the slot.
/// Reachable from callbacks.
pub fn true_return_address(slot: u64, found: u64) -> u64 {
    if found != stub::label() {
        return found;
    }
    let entry = find(crate::arch::thread::current(), slot.wrapping_add(8), true);
    entry.map_or(found, |(entry, _)| {
        entry.return_address.load(Ordering::Relaxed)
    })
}
