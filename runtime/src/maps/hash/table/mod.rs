//! A hash table of lists that need no lock, in memory that many processes
//! write and in which any of them may be killed or stopped at any instruction.
//! It knows no map and no CPU.
//!
//! Reading order: this, `search`, `update`, `delete`, `reuse` (elements in and
//! out), `walk`.
//!
//! # What decides
//! **Whether a key is there** is said by one word, its element's `next`: live,
//! absent (deleted, and may come back to the same element) or marked (out for
//! good; the word leads to what replaced it, or to what follows). A key comes
//! by a CAS of its bucket's head, or of an absent `next`; it goes by a CAS of
//! a live one. An update that has to replace its element marks it and leads to
//! the new one by the same CAS, so readers see the old value or the new. A
//! CAS of the head fails if anyone inserted since the list was searched, and
//! who brings a key back has to find its element, so a list has at most one
//! unmarked element of a key.
//!
//! **Which value it has** is said by its `state`: generation, and a count of
//! changes whose lowest bit is the place. To change a value costs one CAS:
//! `idle -> claimed` by this generation and this count. Then the other place
//! is written, and a plain store counts on and drops the claim.
//!
//! **Who frees an element** is decided by the same claim. Nothing but the
//! holder of the claim ends a generation, so whoever holds one writes to
//! places of an element that stays what it is.
//!
//! # Why that is right
//! - *Reader.* Reads `state`, then `next`, compares the key, reads `state`
//!   again. The same generation says that all of that was one use of the
//!   element; the same count, that at the moment when `next` was live this was
//!   the value. So a value that is being brought back is not seen before its
//!   key is. Who copies reads `state` once more: the copy is whole if nobody
//!   could have claimed the place since. A program's pointer shows the old
//!   value after an update, and is written over by the one after that, as the
//!   kernel's is when the update after that takes the replaced element.
//! - *Two updates of a value.* One claims. The other sees the claim, looks for
//!   a microsecond, and replaces the element: it does not matter whether the
//!   first one is slow, stopped or dead. If its store comes later, nobody can
//!   see it: it happened right before it was replaced.
//! - *Updates in place*, of values with one place or one per CPU, claim, too, so
//!   that the element gets no other key meanwhile, and wait for another's claim
//!   as taking out does. Who was stopped for longer is not waited for: then both
//!   write, and only if the first one goes on and the element is used anew
//!   before the second has written is that as with a program's pointer.
//! - *Update and delete.* A deletion needs no claim. An update whose store
//!   comes after it happened right before it: it had found the key live. If the
//!   key is back by then, it happened at its store, to the key that is there.
//! - *Update and lookup-and-delete.* That reads a value that no update may
//!   follow, so it takes the claim, and gives it back with the count moved on
//!   by two: the same place, but who had meant to claim by the old count looks
//!   at `next` again. It waits, as long as a tenth of a second, for a holder
//!   that lives. The value of one that was stopped for longer is found by
//!   nobody.
//! - *Bringing back.* Claimed first, then seen to be absent: from then on only
//!   this process makes `next` live. The value is stored with the claim kept,
//!   and the key by a CAS that fails if another inserter, who saw the claim,
//!   has replaced the element. Absent to present is never decided by `state`,
//!   so `BPF_NOEXIST` succeeds once.
//! - *Eviction and reuse.* Claimed, marked, taken out of the list, and the
//!   generation moved on before any other byte. A claim by the old state fails
//!   from then on, as does every CAS of `next`, which carries the generation of
//!   its holder, and every link, which carries that of its target; a reader
//!   who stands there starts again.
//! - *An element that was replaced under somebody's claim* is left in the
//!   hints. Who looks for a free element finds it there, and takes it when the
//!   claim is gone or its holder is dead; so it does with those of deleted
//!   keys. Of a deletion and one who takes a hint in vain, each having written
//!   before it reads, one sees the other.
//!
//! # Who is killed
//! leaves at most one element that is held and not linked, one that is claimed,
//! and a hint or a mark too few or too many. A claimed element whose key is
//! there has the value that it had; the next update replaces it or the next
//! scan drops the claim. A held one that is linked is an entry like any other.
//! What is marked and still linked is taken out by whoever comes by. `reuse`
//! has the rest: [`Table::reclaim`] looks at each element ever used.
//!
//! # Who writes nonsense
//! is met by bounds: an element's number is checked where it is used, lists by
//! [`Steps`], waits and repetitions by constants.

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

/// In the order of [`Layout`](super::layout::Layout).
#[repr(C)]
pub(in crate::maps) struct Table {
    /// A full table evicts instead of refusing.
    pub evicts: bool,
    pub key_size: usize,
    pub seed: u64,
    pub pool: Pool,
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
