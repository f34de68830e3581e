//! Copies of kernel maps' elements that running programs hold. It knows no
//! kernel map but by address.
//!
//! A program is given the address of a copy, and may write to it until its run
//! ends. The copies of a run lie in a block of its thread's, one after the
//! other, and stay where they are. Used from trampolines: no allocation, no
//! lock, no libc call, no panic.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use super::relay::Layout;
use super::relayed::Relayed;
use crate::session::file;
use crate::thread;

/// Threads that can be in such runs at once.
const BLOCKS: usize = 64;
/// Bytes of copies that a run can hold.
const BLOCK: usize = 64 << 10;
/// Where the copies in a block begin.
const FIRST: usize = 8;

/// Blocks, and which thread each is of; 0 for none.
struct Pool {
    memory: *mut u8,
    owners: [AtomicU64; BLOCKS],
}

// SAFETY: `memory` is never unmapped, and each block is used by its owner only.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

static POOL: OnceLock<Option<Pool>> = OnceLock::new();

/// What lies before each copy.
#[repr(C)]
struct Head {
    /// Whose element it is.
    map: *const Relayed,
    /// Bytes of the request behind this.
    len: u64,
}

/// Makes room, once. Call outside of trampolines.
pub(super) fn init() {
    POOL.get_or_init(|| {
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE) as usize;
        let words = [0, BLOCKS * BLOCK, prot, flags, usize::MAX, 0];
        // SAFETY: fresh memory at an address of the kernel's choice.
        let memory = unsafe { file::call(libc::SYS_mmap, words) }.ok()?;
        Some(Pool {
            memory: memory as *mut u8,
            owners: [const { AtomicU64::new(0) }; BLOCKS],
        })
    });
    thread::init();
}

/// The copies of the calling thread's run.
pub(super) struct Copies {
    index: usize,
    block: *mut u8,
}

impl Copies {
    fn at(pool: &Pool, index: usize) -> Copies {
        Copies {
            index,
            // One of `BLOCKS`.
            block: pool.memory.wrapping_add(index * BLOCK),
        }
    }

    /// Those there are; `None` when the run has looked nothing up.
    pub fn existing() -> Option<Copies> {
        let pool = POOL.get()?.as_ref()?;
        let own = thread::ids().pid_tgid();
        let is_own = |owner: &AtomicU64| owner.load(Ordering::Relaxed) == own;
        let index = pool.owners.iter().position(is_own)?;
        Some(Copies::at(pool, index))
    }

    /// Those there are, or an empty block; `None` when all are taken.
    pub fn of_run() -> Option<Copies> {
        if let Some(existing) = Copies::existing() {
            return Some(existing);
        }
        let pool = POOL.get()?.as_ref()?;
        let own = thread::ids().pid_tgid();
        let free = |(_, owner): &(usize, &AtomicU64)| {
            let now = owner.load(Ordering::Relaxed);
            // A thread of the process that this one was forked from.
            let is_free = now == 0 || now >> 32 != own >> 32;
            is_free
                && owner
                    .compare_exchange(now, own, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        };
        let (index, _) = pool.owners.iter().enumerate().find(free)?;
        let copies = Copies::at(pool, index);
        copies.set_used(FIRST);
        Some(copies)
    }

    fn used(&self) -> usize {
        // SAFETY: the block's first word, which only this thread uses.
        unsafe { self.block.cast::<usize>().read() }
    }

    fn set_used(&self, used: usize) {
        // SAFETY: as above.
        unsafe { self.block.cast::<usize>().write(used) }
    }

    /// Room for a request about an element of `map`; what is in it is not
    /// known. `None` when the block is full.
    pub fn add(&self, map: &Relayed, layout: &Layout) -> Option<Request> {
        let at = self.used();
        let end = at + size_of::<Head>() + layout.len;
        if end > BLOCK {
            return None;
        }
        let head = Head {
            map: ptr::from_ref(map),
            len: layout.len as u64,
        };
        // SAFETY: inside of the block, at a multiple of 8: lengths are.
        unsafe { self.block.add(at).cast::<Head>().write(head) };
        self.set_used(end);
        Some(Request(
            self.block.wrapping_add(at + size_of::<Head>()),
            layout.len,
        ))
    }

    /// Takes the last one back.
    pub fn drop_last(&self, layout: &Layout) {
        self.set_used(self.used() - size_of::<Head>() - layout.len);
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (*const Relayed, Request)> {
        let (block, used) = (self.block, self.used());
        let mut at = FIRST;
        core::iter::from_fn(move || {
            if at >= used {
                return None;
            }
            // SAFETY: `add` has written a head there.
            let head = unsafe { &*block.add(at).cast::<Head>() };
            let request = block.wrapping_add(at + size_of::<Head>());
            let len = head.len as usize;
            at += size_of::<Head>() + len;
            Some((head.map, Request(request, len)))
        })
    }

    /// Gives the block back.
    pub fn release(self) {
        if let Some(Some(pool)) = POOL.get()
            && let Some(owner) = pool.owners.get(self.index)
        {
            owner.store(0, Ordering::Release);
        }
    }
}

/// A request, and in it a copy of an element: its address and bytes.
#[derive(Clone, Copy)]
pub(super) struct Request(pub *mut u8, pub usize);

impl Request {
    /// The bytes from an offset on.
    pub fn from(self, at: usize) -> *mut u8 {
        self.0.wrapping_add(at)
    }

    /// A word of it.
    pub fn word(self, at: usize) -> u64 {
        // SAFETY: the layout's words lie in the request, at multiples of 8.
        unsafe { self.0.add(at).cast::<u64>().read() }
    }

    /// Changes a word of it.
    pub fn set_word(self, at: usize, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.add(at).cast::<u64>().write(value) }
    }
}
