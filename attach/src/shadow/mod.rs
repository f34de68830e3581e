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
//!
//! Reading order: this file (the blocks), [`entry`] (what is kept of a frame),
//! [`frames`] (frames come and are found again), [`gone`] (those that never
//! return).
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod entry;
mod frames;
mod gone;

pub(crate) use entry::Frame;
pub use frames::true_return_address;

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::arch::thread::Thread;
use crate::arch::{stub, sys};
use crate::counter::COUNTER_BYTES;

use entry::Entry;

/// Frames that a thread can have under return probes at a time.
const DEPTH: usize = 1 << 16;
/// Where the counters are in a block.
pub(crate) const COUNTERS: usize = 128;
/// Bytes before the first entry; pages of them cost when touched.
const HEADER: usize = (COUNTERS + COUNTER_BYTES + 8191) & !4095;
/// Dead owners that a new thread looks for before it takes new memory.
const MOST_ASKED: usize = 16;

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
        gone::forget_on_stack(thread, core::ptr::from_ref(&mask) as u64);
        let new = acquire();
        if let Some(new) = new {
            thread.shadow.set(core::ptr::from_ref(new).cast_mut());
        }
        sys::restore_signals(mask);
        thread.is_exempt.set(false);
        new
    }

    /// Whether this thread has it now from one that is dead.
    fn is_taken_over(&self, pid: u32, tid: u32) -> bool {
        let before = self.owner.load(Ordering::Relaxed);
        let (its_pid, its_tid) = ((before >> 32) as u32, before as u32);
        // After a raw fork the owner may be us under our parent's id: leave it.
        if its_pid != pid || (its_tid != tid && sys::thread_exists(pid, its_tid)) {
            return false;
        }
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        let claim = self
            .owner
            .compare_exchange(before, owner(pid, tid), acquire, relaxed);
        if claim.is_err() {
            return false;
        }
        let is_unused = self.is_unused();
        if is_unused {
            self.top.store(self.base, Ordering::Release);
            self.sorted.store(self.base, Ordering::Relaxed);
            self.guard.store(0, Ordering::Relaxed);
        } else {
            // A coroutine of the dead thread lives on: its addresses stay.
            self.owner.store(before, Ordering::Release);
        }
        is_unused
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
}

/// A block for the calling thread: one whose owner is dead, or a new one.
#[cold]
fn acquire() -> Option<&'static Shadow> {
    let (pid, tid) = (sys::getpid(), sys::gettid());
    // Some of the blocks, others each time: there may be thousands of threads.
    let blocks = BLOCKS.load(Ordering::Relaxed).max(1);
    let from = (tid as usize).wrapping_mul(MOST_ASKED) % blocks;
    let some = all().skip(from).chain(all().take(from)).take(MOST_ASKED);
    let mut taken = some.filter(|shadow| shadow.is_taken_over(pid, tid));
    taken.next().or_else(|| make(owner(pid, tid)))
}

/// How a block names its owner.
fn owner(pid: u32, tid: u32) -> u64 {
    u64::from(pid) << 32 | u64::from(tid)
}

/// A new block, linked.
fn make(owner: u64) -> Option<&'static Shadow> {
    let bytes = HEADER + DEPTH * size_of::<Entry>();
    let mapped = sys::map_private(bytes).ok()?;
    // SAFETY: the mapping is page-aligned, zeroed, ours, and longer than this.
    let base = unsafe { mapped.add(HEADER) }.cast::<Entry>();
    // SAFETY: in the header, after the `Shadow` (asserted above).
    unsafe { &*base.sub(1) }
        .key
        .store(u64::MAX, Ordering::Relaxed);
    let shadow = mapped.cast::<Shadow>();
    // SAFETY: exclusively ours until linked.
    unsafe {
        shadow.write(Shadow {
            next: AtomicPtr::new(core::ptr::null_mut()),
            top: AtomicPtr::new(base),
            base,
            limit: AtomicPtr::new(base.add(DEPTH)),
            owner: AtomicU64::new(owner),
            refused: AtomicU64::new(0),
            guard: AtomicU64::new(0),
            sorted: AtomicPtr::new(base),
        });
    }
    // SAFETY: written just above, never unmapped.
    let shadow: &'static Shadow = unsafe { &*shadow };
    link(shadow);
    if gone::do_frames_move() {
        shadow.limit.store(base, Ordering::Relaxed);
    }
    BLOCKS.fetch_add(1, Ordering::Relaxed);
    Some(shadow)
}

fn link(shadow: &'static Shadow) {
    let linked = core::ptr::from_ref(shadow).cast_mut();
    let mut first = head().load(Ordering::Relaxed);
    loop {
        shadow.next.store(first, Ordering::Relaxed);
        match head().compare_exchange(first, linked, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(other) => first = other,
        }
    }
}

/// In the child after fork(2): the calling thread's stack is its own still.
pub(crate) fn after_fork(thread: &Thread) {
    // SAFETY: `Thread::shadow` is null or a linked stack.
    if let Some(shadow) = unsafe { thread.shadow.get().as_ref() } {
        let own = owner(sys::getpid(), sys::gettid());
        shadow.owner.store(own, Ordering::Relaxed);
    }
}
