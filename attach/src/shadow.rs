//! One block for each thread that had a hit, in memory that outlives the
//! thread: its guard, its counters, and where the true return addresses are
//! while functions run with ours, a stack of entries. Blocks are linked for
//! unwinders and for coroutines that move between threads. Reachable from
//! trampolines: no allocation, no lock, no libc, no panic.
//!
//! An entry's **key** is the stack pointer after the return, its **slot** the
//! word below. Entries of frames that never return (longjmp, exceptions,
//! thread exit) are recognised by their slot, which no longer holds our label,
//! never by comparing stack pointers: a lower key may be a coroutine's.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use crate::arch::thread::Thread;
use crate::arch::{stub, sys};
use crate::counter::COUNTER_BYTES;
use crate::session::Cookie;
use crate::site::Site;

/// Frames that a thread can have under return probes at a time.
const DEPTH: usize = 1 << 16;
/// Where the counters are in a block.
pub(crate) const COUNTERS: usize = 128;
/// Bytes before the first entry; pages of them cost when touched.
const HEADER: usize = (COUNTERS + COUNTER_BYTES + 8191) & !4095;
/// Dead owners that a new thread looks for before it takes new memory.
const MOST_ASKED: usize = 16;

/// One hijacked frame. Unwind information reads `key` and `return_address`,
/// the stubs in `arch` read and write all of it.
///
/// What a session keeps is an entry of its own, right above the frame's: with
/// the same key and our label as its return address (so that unwinders and the
/// stub take it for a tail call's), `site` twice the probe's id plus one, and
/// `newest` the cookie.
#[repr(C)]
struct Entry {
    /// Stack pointer after the return; 0 once popped.
    key: AtomicU64,
    return_address: AtomicU64,
    site: AtomicPtr<Site>,
    /// The newest probe that is to run at its return.
    newest: AtomicU64,
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

impl Entry {
    #[inline]
    fn frame(&self) -> Frame {
        Frame {
            key: self.key.load(Ordering::Relaxed),
            return_address: self.return_address.load(Ordering::Relaxed),
            site: self.site.load(Ordering::Relaxed),
            newest: self.newest.load(Ordering::Relaxed),
        }
    }
}

impl Entry {
    fn set(&self, return_address: u64, site: *mut Site, newest: u64, key: u64) {
        self.return_address.store(return_address, Ordering::Relaxed);
        self.site.store(site, Ordering::Relaxed);
        self.newest.store(newest, Ordering::Relaxed);
        self.key.store(key, Ordering::Release);
    }

    fn set_cookie(&self, cookie: &Cookie, key: u64) {
        let site = core::ptr::without_provenance_mut(Entry::mark_of(cookie.id));
        self.set(stub::label(), site, cookie.value, key);
    }

    /// Sites are aligned, so no site's address is odd.
    fn mark_of(id: u64) -> usize {
        (id as usize) << 1 | 1
    }

    fn is_cookie(&self) -> bool {
        self.site.load(Ordering::Relaxed).addr() & 1 == 1
    }
}

/// The head of one thread's block. Unwind information reads `next`, `top`,
/// `base` and `sorted`.
#[repr(C)]
pub(crate) struct Shadow {
    next: AtomicPtr<Shadow>,
    top: AtomicPtr<Entry>,
    base: *mut Entry,
    /// Up to here frames may be taken by the short way (`arch::direct`): all of
    /// the entries, or none once frames have changed threads.
    limit: AtomicPtr<Entry>,
    /// Process and thread id of the owner; a dead owner's stack is reused.
    owner: AtomicU64,
    /// Frames for which there was no room since it helped to look for dead ones.
    refused: AtomicU64,
    /// 0, or the guard of the running hit (`crate::guard`).
    pub(crate) guard: AtomicU64,
    /// From this entry on keys fall towards the top. Below it may be entries of
    /// coroutines, and of frames that left by jumps and exceptions and whose
    /// slots have not been used since: among those only the newest of a key is
    /// known to be right. May be above `top`.
    sorted: AtomicPtr<Entry>,
}

/// What instructions know of [`Shadow`] and [`Entry`].
pub(crate) mod offsets {
    use super::{Entry, Shadow};
    use core::mem::offset_of;

    pub(crate) const TOP: usize = offset_of!(Shadow, top);
    pub(crate) const END: usize = offset_of!(Shadow, limit);
    pub(crate) const GUARD: usize = offset_of!(Shadow, guard);
    pub(crate) const RETURN_ADDRESS: usize = offset_of!(Entry, return_address);
    pub(crate) const SITE: usize = offset_of!(Entry, site);
    pub(crate) const NEWEST: usize = offset_of!(Entry, newest);
    pub(crate) const ENTRY: usize = size_of::<Entry>();
    const _: () = assert!(offset_of!(Entry, key) == 0);
}

// The call-frame information in `arch::stub` knows these.
const _: () = assert!(size_of::<Entry>() == 32 && offset_of!(Entry, return_address) == 8);
const _: () = assert!(offset_of!(Shadow, next) == 0);
const _: () = assert!(offset_of!(Shadow, top) == 8 && offset_of!(Shadow, base) == 16);
const _: () = assert!(offset_of!(Shadow, sorted) == 0x38);
const _: () = assert!(size_of::<Shadow>() <= COUNTERS);
const _: () = assert!(COUNTERS + COUNTER_BYTES + size_of::<Entry>() <= HEADER);

/// Head of the list of all blocks; it only ever grows.
fn head() -> &'static AtomicPtr<Shadow> {
    // SAFETY: a pointer-sized aligned word that only this module uses.
    unsafe { AtomicPtr::from_ptr(stub::shadows().cast()) }
}

/// Whether a frame has returned on another thread than it was entered on.
static FRAMES_MOVE: AtomicBool = AtomicBool::new(false);

/// From now on a slot may have entries of several threads, of which only the
/// newest is right: whoever takes a slot drops the others, and nobody takes
/// the short way any more, which does not.
#[cold]
fn frames_move() {
    if !FRAMES_MOVE.swap(true, Ordering::SeqCst) {
        for shadow in all() {
            shadow.limit.store(shadow.base, Ordering::Relaxed);
        }
    }
}

/// Drops what dead threads left on the stack that the calling thread got: its
/// thread-local words lie at the top of it, `here` is in its first frames.
#[cold]
fn forget_on_stack(thread: &Thread, here: u64) {
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

/// How many there are.
static BLOCKS: AtomicUsize = AtomicUsize::new(0);

/// The sum of a counter's words in all threads, dead ones included.
pub(crate) fn total(offset: usize) -> u64 {
    all().fold(0, |sum, shadow| {
        sum.wrapping_add(shadow.word(offset).load(Ordering::Relaxed))
    })
}

/// A thread that was in a hit.
pub(crate) struct Inside {
    shadow: &'static Shadow,
    guard: u64,
}

/// The threads that are in a hit now.
pub(crate) fn inside() -> Vec<Inside> {
    let pid = sys::getpid();
    // A forked child has the blocks of threads that it does not have.
    let is_here = |shadow: &&Shadow| (shadow.owner.load(Ordering::Relaxed) >> 32) as u32 == pid;
    let inside = all().filter(is_here).map(|shadow| Inside {
        shadow,
        guard: shadow.guard.load(Ordering::Acquire),
    });
    inside.filter(|inside| inside.guard != 0).collect()
}

impl Inside {
    /// Whether the thread has left that hit for sure. One that is always in
    /// some hit at the same depth looks as if it had not, so it is looked at
    /// for a moment.
    pub(crate) fn has_left(&self) -> bool {
        const LOOKS: u32 = 64;
        (0..LOOKS).any(|_| {
            core::hint::spin_loop();
            self.shadow.guard.load(Ordering::Acquire) != self.guard
        })
    }
}

/// All blocks of the process.
fn all() -> impl Iterator<Item = &'static Shadow> {
    // SAFETY: linked stacks are initialised before and never unmapped.
    let first = unsafe { head().load(Ordering::Acquire).as_ref() };
    // SAFETY: as above.
    core::iter::successors(first, |shadow| unsafe {
        shadow.next.load(Ordering::Acquire).as_ref()
    })
}

impl Shadow {
    /// The thread's block; none if there is no memory for one.
    #[inline]
    pub(crate) fn of(thread: &Thread) -> Option<&'static Shadow> {
        // SAFETY: `Thread::shadow` is null or a linked block, never unmapped.
        let shadow: Option<&'static Shadow> = unsafe { thread.shadow.get().as_ref() };
        shadow.or_else(|| Shadow::first_of(thread))
    }

    /// Gives the thread a block. Its system calls are no hits.
    #[cold]
    fn first_of(thread: &Thread) -> Option<&'static Shadow> {
        thread.is_exempt.set(true);
        let mask = sys::block_signals();
        forget_on_stack(thread, core::ptr::from_ref(&mask) as u64);
        let new = acquire();
        if let Some(new) = new {
            thread.shadow.set(core::ptr::from_ref(new).cast_mut());
        }
        sys::restore_signals(mask);
        thread.is_exempt.set(false);
        new
    }

    /// Counts a hit in the word at `offset`. Only from an admitted hit, which
    /// no other interrupts.
    #[inline]
    pub(crate) fn count(&self, offset: usize) {
        let word = self.word(offset);
        word.store(
            word.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        debug_assert!((COUNTERS..COUNTERS + COUNTER_BYTES).contains(&offset));
        // SAFETY: `offset` is a counter's, which lies in the block's mapping.
        unsafe { &*core::ptr::from_ref(self).cast::<u8>().add(offset).cast() }
    }

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
        if FRAMES_MOVE.load(Ordering::Relaxed) && return_address != stub::label() {
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

    /// Drops what other threads have for the slot of `key`, which is used anew:
    /// a frame there left by a jump, or ended with its coroutine.
    #[cold]
    fn forget_elsewhere(&self, key: u64) {
        let others = all().filter(|other| !core::ptr::eq(*other, self));
        for entry in others.flat_map(Shadow::entries) {
            if entry.key.load(Ordering::Relaxed) == key {
                entry.key.store(0, Ordering::Relaxed);
            }
        }
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
            frames_move();
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

    /// Pops entries whose frames are gone, as far as it shows from the top.
    #[cold]
    fn reap(&self, key: u64, return_address: u64) -> *mut Entry {
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
    fn make_room(&self) -> *mut Entry {
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
            // Open addressing; there are twice as many places as entries.
            let start = (key >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15) as usize;
            for step in 0..PLACES {
                let Some(place) = seen.get(start.wrapping_add(step) % PLACES) else {
                    break;
                };
                match place.load(Ordering::Relaxed) {
                    0 => {
                        place.store(key, Ordering::Relaxed);
                        break;
                    }
                    other if other == key => {
                        entry.key.store(0, Ordering::Relaxed);
                        break;
                    }
                    _ => {}
                }
            }
        }
        // SAFETY: `seen` is not used any more.
        unsafe { sys::unmap(table, bytes) };
    }

    /// Moves the entries above `hole` down and drops those whose keys do not
    /// stay. A frame's slot is looked at by a system call: not at each return
    /// below frames of suspended coroutines.
    #[cold]
    fn close_gap(&self, hole: *mut Entry, top: *mut Entry, stays: impl Fn(u64) -> bool) {
        let mut to = hole;
        let mut from = hole;
        while from < top {
            // SAFETY: between `base` and `top`.
            let (source, target) = unsafe { (&*from, &*to) };
            let key = source.key.load(Ordering::Relaxed);
            if stays(key) {
                if to != from {
                    let relaxed = Ordering::Relaxed;
                    target
                        .return_address
                        .store(source.return_address.load(relaxed), relaxed);
                    target.site.store(source.site.load(relaxed), relaxed);
                    target.newest.store(source.newest.load(relaxed), relaxed);
                    target.key.store(key, Ordering::SeqCst);
                    // Another thread, on which the frame has returned just
                    // now, may have found it in the old place.
                    let moved = source
                        .key
                        .compare_exchange(key, 0, Ordering::SeqCst, relaxed);
                    if moved.is_err() {
                        target.key.store(0, relaxed);
                        // SAFETY: at most `top`.
                        from = unsafe { from.add(1) };
                        continue;
                    }
                }
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
    fn is_unused(&self) -> bool {
        self.entries().all(|entry| {
            let key = entry.key.load(Ordering::Relaxed);
            key == 0 || !is_alive(key)
        })
    }

    /// Entries from the newest to the oldest.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
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

/// Whether the frame's slot still holds our label. Stacks of coroutines come
/// and go on other threads.
fn is_alive(key: u64) -> bool {
    sys::read_word(key.wrapping_sub(8)) == Some(stub::label())
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

/// A stack for the calling thread: one whose owner is dead, or a new one.
#[cold]
fn acquire() -> Option<&'static Shadow> {
    let (pid, tid) = (sys::getpid(), sys::gettid());
    let me = u64::from(pid) << 32 | u64::from(tid);
    // Some of the blocks, others each time: there may be thousands of threads.
    let blocks = BLOCKS.load(Ordering::Relaxed).max(1);
    let from = (tid as usize).wrapping_mul(MOST_ASKED) % blocks;
    for shadow in all().skip(from).chain(all().take(from)).take(MOST_ASKED) {
        let owner = shadow.owner.load(Ordering::Relaxed);
        let (its_pid, its_tid) = ((owner >> 32) as u32, owner as u32);
        // After a raw fork the owner may be us under our parent's id: leave it.
        if its_pid != pid || (its_tid != tid && sys::thread_exists(pid, its_tid)) {
            continue;
        }
        let claim = shadow
            .owner
            .compare_exchange(owner, me, Ordering::Acquire, Ordering::Relaxed);
        if claim.is_ok() {
            if shadow.is_unused() {
                shadow.top.store(shadow.base, Ordering::Release);
                shadow.sorted.store(shadow.base, Ordering::Relaxed);
                shadow.guard.store(0, Ordering::Relaxed);
                return Some(shadow);
            }
            // A coroutine of the dead thread lives on: its addresses stay.
            shadow.owner.store(owner, Ordering::Release);
        }
    }
    let bytes = HEADER + DEPTH * size_of::<Entry>();
    let mapped = sys::map_private(bytes).ok()?;
    // SAFETY: the mapping is page-aligned, zeroed, ours, and longer than this.
    let base = unsafe { mapped.add(HEADER) }.cast::<Entry>();
    // SAFETY: in the header, after the `Shadow` (asserted above).
    unsafe { &*base.sub(1) }
        .key
        .store(u64::MAX, Ordering::Relaxed);
    let shadow = mapped.cast::<Shadow>();
    let first = head().load(Ordering::Relaxed);
    // SAFETY: exclusively ours until linked.
    unsafe {
        shadow.write(Shadow {
            next: AtomicPtr::new(first),
            top: AtomicPtr::new(base),
            base,
            limit: AtomicPtr::new(base.add(DEPTH)),
            owner: AtomicU64::new(me),
            refused: AtomicU64::new(0),
            guard: AtomicU64::new(0),
            sorted: AtomicPtr::new(base),
        });
    }
    // SAFETY: written just above, never unmapped.
    let shadow: &'static Shadow = unsafe { &*shadow };
    let mut expected = first;
    loop {
        shadow.next.store(expected, Ordering::Relaxed);
        let linked = core::ptr::from_ref(shadow).cast_mut();
        match head().compare_exchange(expected, linked, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => {
                if FRAMES_MOVE.load(Ordering::SeqCst) {
                    shadow.limit.store(base, Ordering::Relaxed);
                }
                BLOCKS.fetch_add(1, Ordering::Relaxed);
                return Some(shadow);
            }
            Err(other) => expected = other,
        }
    }
}

/// In the child after fork(2): the calling thread's stack is its own still.
pub(crate) fn after_fork(thread: &Thread) {
    // SAFETY: `Thread::shadow` is null or a linked stack.
    if let Some(shadow) = unsafe { thread.shadow.get().as_ref() } {
        let me = u64::from(sys::getpid()) << 32 | u64::from(sys::gettid());
        shadow.owner.store(me, Ordering::Relaxed);
    }
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
