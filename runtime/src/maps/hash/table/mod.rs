//! A hash table of lists that need no lock, in memory that many processes
//! write and in which any of them may be killed at any instruction. It knows
//! no map and no CPU.

mod delete;
mod reuse;
mod search;
mod update;
mod walk;

use shm::sync::Ordering::{Acquire, Relaxed};
use shm::sync::{AtomicU64, fence};

pub(in crate::maps) use self::delete::Patience;

use super::super::hasher;
use super::element::{Element, Link, State};
use super::pool::Pool;

/// How often an operation starts again before it gives up with `EBUSY`. Each
/// time another process has got something done.
pub(in crate::maps) const RESTARTS: u32 = 1 << 16;

/// How often a walk over all buckets looks at one anew that changes.
pub(in crate::maps) const LOOKS: u32 = 1 << 10;

pub(in crate::maps) struct Table {
    pub pool: Pool,
    pub key_size: usize,
    pub seed: u64,
    /// A full table evicts instead of refusing.
    pub evicts: bool,
    pub patience: Patience,
}

/// How many elements an operation may still look at. Lists are no longer than
/// there are elements, and nobody strays for ever, unless someone wrote
/// nonsense: cycles, or links that lead astray whenever they are followed.
pub(in crate::maps) struct Steps(u64);

impl Steps {
    #[inline]
    fn step(&mut self) -> Result<(), Strayed> {
        self.0 = self.0.checked_sub(1).ok_or(Strayed)?;
        Ok(())
    }

    pub fn are_over(&self) -> bool {
        self.0 == 0
    }
}

/// The element that a search stood on is used anew, or there are no steps left.
struct Strayed;

/// An element of a list, at the time it was looked at.
#[derive(Clone, Copy)]
pub(in crate::maps) struct Entry<'t> {
    pub element: Element<'t>,
    /// The link that led to it.
    link: Link,
    /// What it was before `next` was read.
    state: State,
    next: Link,
}

impl Entry<'_> {
    fn generation(&self) -> u64 {
        self.link.generation()
    }

    /// Which of its places has the value.
    pub fn place(&self) -> usize {
        self.state.place()
    }
}

/// Where the search for a key ended.
struct Place<'t> {
    /// The bucket's head when the search began.
    head: Link,
    /// The element of the key: live or absent, but not marked.
    entry: Option<Entry<'t>>,
    /// The word that led to it.
    cell: &'t AtomicU64,
    /// There are marked elements in the list.
    dirty: bool,
}

impl Table {
    /// The hash of a key.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    #[inline(always)]
    pub unsafe fn hash(&self, key: *const u8) -> u32 {
        // SAFETY: the caller's contract.
        unsafe { hasher::hash(key, self.key_size, self.seed) }
    }

    /// Steps for an operation that goes over all elements `rounds` times.
    #[inline]
    pub fn steps(&self, rounds: u64) -> Steps {
        Steps(rounds * self.pool.layout.count + u64::from(RESTARTS))
    }

    /// What `link` leads to; `None` at the end of the list.
    #[inline(always)]
    fn entry(&self, link: Link) -> Option<Entry<'_>> {
        let element = self.pool.element(link.number())?;
        let state = State(element.state().load(Acquire));
        Some(Entry {
            element,
            link,
            state,
            next: Link(element.next().load(Acquire)),
        })
    }

    /// The state of an element now, after all that was read of it.
    #[inline]
    fn state_of(&self, element: Element<'_>) -> State {
        fence(Acquire);
        State(element.state().load(Relaxed))
    }

    /// Is the element still the one that the link led to?
    #[inline]
    pub fn is_current(&self, entry: Entry<'_>) -> bool {
        self.state_of(entry.element).generation() == entry.generation()
    }

    /// Were the bytes, all that was read of them, the value that the entry had?
    pub fn has_kept_value(&self, entry: Entry<'_>) -> bool {
        self.state_of(entry.element).keeps_value_of(entry.state)
    }

    /// Where the value is that the entry has.
    #[inline]
    pub fn value(&self, entry: Entry<'_>) -> *mut u8 {
        self.pool.place(entry.element, entry.state.place())
    }
}
