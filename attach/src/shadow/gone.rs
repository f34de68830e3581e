//! Frames that never return: what is left of them is found and dropped.
//! Reachable from trampolines: no allocation, no lock, no libc, no panic.

use core::mem::size_of;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::entry::Entry;
use super::{DEPTH, Shadow, all};
use crate::arch::thread::Thread;
use crate::arch::{stub, sys};

/// Whether a frame has returned on another thread than it was entered on.
static FRAMES_MOVE: AtomicBool = AtomicBool::new(false);

/// As [`frames_move`] says.
#[inline]
pub(super) fn do_frames_move() -> bool {
    FRAMES_MOVE.load(Ordering::SeqCst)
}

/// From now on a slot may have entries of several threads, of which only the
/// newest is right: whoever takes a slot drops the others, and nobody takes
/// the short way any more, which does not.
#[cold]
pub(super) fn frames_move() {
    if !FRAMES_MOVE.swap(true, Ordering::SeqCst) {
        for shadow in all() {
            shadow.limit.store(shadow.base, Ordering::Relaxed);
        }
    }
}

/// Drops what dead threads left on the stack that the calling thread got: its
/// thread-local words lie at the top of it, `here` is in its first frames.
#[cold]
pub(super) fn forget_on_stack(thread: &Thread, here: u64) {
    const FIRST_FRAMES: u64 = 64 * 1024;
    /// As much stack as any thread has.
    const LEAST_STACK: u64 = 8 * 1024;
    let top = core::ptr::from_ref(thread) as u64;
    if here >= top || top - here > FIRST_FRAMES {
        return;
    }
    let own = top - (top - here).max(LEAST_STACK)..top;
    for entry in all().flat_map(Shadow::entries) {
        let key = entry.key.load(Ordering::Relaxed);
        if own.contains(&key) {
            // Its owner, if it lives, may move it just now.
            let relaxed = Ordering::Relaxed;
            let _ = entry
                .key
                .compare_exchange(key, 0, Ordering::SeqCst, relaxed);
        }
    }
}

impl Shadow {
    /// Drops what other threads have for the slot of `key`, which is used anew:
    /// a frame there left by a jump, or ended with its coroutine.
    #[cold]
    pub(super) fn forget_elsewhere(&self, key: u64) {
        let others = all().filter(|other| !core::ptr::eq(*other, self));
        for entry in others.flat_map(Shadow::entries) {
            if entry.key.load(Ordering::Relaxed) == key {
                entry.key.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Pops entries whose frames are gone, as far as it shows from the top.
    #[cold]
    pub(super) fn reap(&self, key: u64, return_address: u64) -> *mut Entry {
        let mut top = self.top.load(Ordering::Relaxed);
        while top > self.base {
            // SAFETY: above `base`.
            let entry = unsafe { &*top.sub(1) };
            let its_key = entry.key.load(Ordering::Relaxed);
            let is_gone = if its_key == key {
                // The slot is being used anew, unless by a tail call.
                return_address != stub::label()
            } else {
                its_key < key && !is_alive(its_key)
            };
            if !is_gone {
                break;
            }
            entry.key.store(0, Ordering::Relaxed);
            // SAFETY: above `base`.
            top = unsafe { top.sub(1) };
        }
        self.top.store(top, Ordering::Release);
        top
    }

    /// Drops the entries of all frames that are gone: those that left by jumps
    /// and whose stack was not used since hide among the others. Looks seldom
    /// when that does not help, for the frames may be alive.
    #[cold]
    pub(super) fn make_room(&self) -> *mut Entry {
        let top = self.top.load(Ordering::Relaxed);
        let refused = self.refused.load(Ordering::Relaxed) + 1;
        self.refused.store(refused, Ordering::Relaxed);
        if !refused.is_power_of_two() {
            return top;
        }
        self.forget_reused_slots();
        self.close_gap(self.base, top, |key| key != 0 && is_alive(key));
        let left = self.top.load(Ordering::Relaxed);
        // SAFETY: both in the mapping, `base <= left`.
        if unsafe { left.offset_from_unsigned(self.base) } < DEPTH / 2 {
            self.refused.store(0, Ordering::Relaxed);
        }
        left
    }

    /// Of entries with one key, only the newest and those that tail calls left
    /// below it can be alive.
    fn forget_reused_slots(&self) {
        const PLACES: usize = DEPTH * 2;
        let bytes = PLACES * size_of::<AtomicU64>();
        let Ok(table) = sys::map_scratch(bytes) else {
            return;
        };
        // SAFETY: mapped just now, zeroed, page-aligned, of this length.
        let seen = unsafe { core::slice::from_raw_parts(table.cast::<AtomicU64>(), PLACES) };
        for entry in self.entries() {
            let key = entry.key.load(Ordering::Relaxed);
            let is_tail_call = entry.return_address.load(Ordering::Relaxed) == stub::label();
            if key == 0 || is_tail_call {
                continue;
            }
            if !is_new(seen, key) {
                entry.key.store(0, Ordering::Relaxed);
            }
        }
        // SAFETY: `seen` is not used any more.
        unsafe { sys::unmap(table, bytes) };
    }

    /// Moves the entries above `hole` down and drops those whose keys do not
    /// stay. A frame's slot is looked at by a system call: not at each return
    /// below frames of suspended coroutines.
    #[cold]
    pub(super) fn close_gap(&self, hole: *mut Entry, top: *mut Entry, stays: impl Fn(u64) -> bool) {
        let mut to = hole;
        let mut from = hole;
        while from < top {
            // SAFETY: between `base` and `top`.
            let (source, target) = unsafe { (&*from, &*to) };
            let key = source.key.load(Ordering::Relaxed);
            if stays(key) && (to == from || has_moved(source, target, key)) {
                // SAFETY: at most `top`.
                to = unsafe { to.add(1) };
            }
            // SAFETY: at most `top`.
            from = unsafe { from.add(1) };
        }
        // What was unsorted has moved to where nobody knows.
        if self.sorted.load(Ordering::Relaxed) > hole {
            self.sorted.store(to, Ordering::Relaxed);
        }
        self.top.store(to, Ordering::Release);
    }

    /// Whether no frame that is still alive has an entry here.
    pub(super) fn is_unused(&self) -> bool {
        self.entries().all(|entry| {
            let key = entry.key.load(Ordering::Relaxed);
            key == 0 || !is_alive(key)
        })
    }
}

/// Whether the frame's slot still holds our label. Stacks of coroutines come
/// and go on other threads.
fn is_alive(key: u64) -> bool {
    sys::read_word(key.wrapping_sub(8)) == Some(stub::label())
}

/// Puts a key into a table, by open addressing; there are more places than keys.
fn is_new(seen: &[AtomicU64], key: u64) -> bool {
    let start = (key >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize;
    let places = (0..seen.len()).map(|step| start.wrapping_add(step) % seen.len());
    for place in places.filter_map(|place| seen.get(place)) {
        match place.load(Ordering::Relaxed) {
            0 => {
                place.store(key, Ordering::Relaxed);
                return true;
            }
            other if other == key => return false,
            _ => {}
        }
    }
    true
}

/// Moves an entry, unless its frame returns just now on another thread, which
/// may have found it in the old place.
fn has_moved(source: &Entry, target: &Entry, key: u64) -> bool {
    let relaxed = Ordering::Relaxed;
    target
        .return_address
        .store(source.return_address.load(relaxed), relaxed);
    target.site.store(source.site.load(relaxed), relaxed);
    target.newest.store(source.newest.load(relaxed), relaxed);
    target.key.store(key, Ordering::SeqCst);
    let moved = source
        .key
        .compare_exchange(key, 0, Ordering::SeqCst, relaxed);
    if moved.is_err() {
        target.key.store(0, relaxed);
    }
    moved.is_ok()
}
