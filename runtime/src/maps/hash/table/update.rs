//! Storing a value under a key.

use shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use shm::sync::{looks, spin_loop};

use uapi::Errno;
use uapi::map::{BPF_ANY, BPF_EXIST, BPF_NOEXIST};

use super::super::element::{Element, Link, Phase, State, Stock};
use super::super::key::{Any, Key};
use super::super::lru;
use super::super::pool::Held;
use super::{Entry, Place, RESTARTS, Table};
use crate::thread::{self, ThreadIds};

/// Looks at an element that another process has claimed before something else
/// is done: about a microsecond, and a claim is held for the time of a copy.
const PATIENCE: u32 = looks(32);

/// What is stored: writes the value of an element to one of its places.
pub(in crate::maps) type Fill<'a> = dyn Fn(Element<'_>, usize) + 'a;

/// What became of an attempt to claim an element.
pub(super) enum Claim {
    /// Ours; the state that says so.
    Taken(State),
    /// Another's, who may be dead.
    InHands,
    /// The element is not what it was.
    Changed,
}

impl Table {
    /// Stores a value under `key`, which `fill` writes. When the key exists,
    /// `in_place`, if there is one, changes its value instead.
    ///
    /// # Errors
    /// `EEXIST` and `ENOENT` by flags (`EINVAL` for unknown ones), `E2BIG` when
    /// full, `EBUSY` when other processes never let it through.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    #[inline]
    pub unsafe fn update(
        &self,
        key: *const u8,
        flags: u64,
        start: u32,
        fill: &impl Fn(Element<'_>, usize),
        in_place: Option<&dyn Fn(Element<'_>)>,
    ) -> Result<(), Errno> {
        // SAFETY: the caller's contract.
        let any = unsafe { Any::new(key, self.key_size) };
        let hash = any.hash(self.seed);
        // SAFETY: the caller's contract.
        if unsafe { self.change_now(any, hash, flags, thread::ids(), fill) } {
            return Ok(());
        }
        let new = New {
            key,
            hash,
            flags,
            start: start.wrapping_mul(8),
            fill,
        };
        // SAFETY: the caller's contract.
        unsafe { self.store(&new, in_place) }
    }

    /// Stores a value under a key that is there, if nobody is in the way:
    /// whether it did.
    ///
    /// # Safety
    /// The key is as long as the table's.
    #[inline(always)]
    pub unsafe fn change_now(
        &self,
        key: impl Key,
        hash: u32,
        flags: u64,
        owner: ThreadIds,
        fill: &impl Fn(Element<'_>, usize),
    ) -> bool {
        if self.pool.layout.has_twins
            && (flags == BPF_ANY || flags == BPF_EXIST)
            // SAFETY: the caller's contract.
            && let Some(Some(entry)) = unsafe { self.glance(key, hash) }
            && entry.state.is_idle()
            && let Ok(claimed) = self.pool.claim_for(entry.element, entry.state, owner)
        {
            self.change(entry.element, claimed, fill);
            return true;
        }
        false
    }

    /// Writes the value of a claimed element, of which the key is there, to
    /// its other place and gives it back.
    #[inline(always)]
    fn change(
        &self,
        element: Element<'_>,
        claimed: State,
        fill: &(impl Fn(Element<'_>, usize) + ?Sized),
    ) {
        let changed = claimed.changed(1);
        fill(element, changed.place());
        if self.evicts {
            lru::mark_used(element);
        }
        element.state().store(changed.live().0, Release);
    }

    /// The long way of [`Table::update`].
    ///
    /// # Safety
    /// As [`Table::update`].
    #[inline(never)]
    unsafe fn store(
        &self,
        new: &New<'_>,
        in_place: Option<&dyn Fn(Element<'_>)>,
    ) -> Result<(), Errno> {
        if new.flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        let mut steps = self.steps(1);
        for _ in 0..RESTARTS {
            // SAFETY: the caller's contract.
            let place = unsafe { self.place(new.key, new.hash, &mut steps) }?;
            let done = match (place.entry, in_place) {
                (Some(entry), _) if entry.next.is_live() && new.flags == BPF_NOEXIST => {
                    return Err(Errno::EEXIST);
                }
                (Some(entry), Some(in_place)) if entry.next.is_live() => {
                    self.store_in_place(entry, in_place)
                }
                (Some(entry), _) if entry.next.is_live() => {
                    // SAFETY: the caller's contract.
                    unsafe { self.store_again(new, &place, entry) }?
                }
                _ if new.flags == BPF_EXIST => return Err(Errno::ENOENT),
                // SAFETY: the caller's contract.
                (Some(entry), _) => unsafe { self.bring_back(new, &place, entry) }?,
                // SAFETY: the caller's contract.
                (None, _) => unsafe { self.insert(new, place.head) }?,
            };
            if done {
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    /// Changes the value of a key that is there where it is: `false` when it is
    /// not there any more.
    fn store_in_place(&self, entry: Entry<'_>, in_place: &dyn Fn(Element<'_>)) -> bool {
        let element = entry.element;
        let claimed = match self.claim_or_inherit(entry) {
            Claim::Changed => return false,
            Claim::Taken(claimed) => Some(claimed),
            // Whoever has it keeps the element from another key for as long.
            Claim::InHands => None,
        };
        in_place(element);
        if self.evicts {
            lru::mark_used(element);
        }
        if let Some(claimed) = claimed {
            element.state().store(claimed.live().0, Release);
        }
        true
    }

    /// Claims the element of a live entry, from a dead process, too.
    fn claim_or_inherit(&self, entry: Entry<'_>) -> Claim {
        let claim = self.claim_patiently(entry);
        let state = State(entry.element.state().load(Acquire));
        let is_dead = matches!(claim, Claim::InHands)
            && state.phase() == Phase::Claimed
            && state.generation() == entry.generation()
            && !thread::exists(state.owner() as i32);
        if !is_dead {
            return claim;
        }
        let mine = state.claimed_by(thread::ids().pid as u32);
        let word = entry.element.state();
        match word.compare_exchange(state.0, mine.0, AcqRel, Relaxed) {
            Ok(_) => Claim::Taken(mine),
            Err(_) => claim,
        }
    }

    /// Stores the value of a key that is there: `false` when it is not there
    /// any more.
    ///
    /// # Safety
    /// As [`Table::update`].
    unsafe fn store_again(
        &self,
        new: &New<'_>,
        place: &Place<'_>,
        entry: Entry<'_>,
    ) -> Result<bool, Errno> {
        if self.pool.layout.has_twins {
            match self.claim(entry, Link::is_live) {
                Claim::Taken(claimed) => {
                    self.change(entry.element, claimed, new.fill);
                    return Ok(true);
                }
                Claim::Changed => return Ok(false),
                Claim::InHands => {}
            }
        }
        // SAFETY: the caller's contract.
        unsafe { self.replace(new, place, entry) }
    }

    /// Stores the value of a key that was deleted in the element that it had:
    /// `false` when that is not possible any more.
    ///
    /// # Safety
    /// As [`Table::update`].
    unsafe fn bring_back(
        &self,
        new: &New<'_>,
        place: &Place<'_>,
        entry: Entry<'_>,
    ) -> Result<bool, Errno> {
        let element = entry.element;
        let claimed = match self.claim(entry, Link::is_absent) {
            Claim::Taken(claimed) => claimed,
            Claim::Changed => return Ok(false),
            // SAFETY: the caller's contract.
            Claim::InHands => return unsafe { self.replace(new, place, entry) },
        };
        // Only now nobody else brings it back.
        let mut next = Link(element.next().load(Acquire));
        if !next.is_absent() {
            element.state().store(claimed.live().0, Release);
            return Ok(false);
        }
        let changed = claimed.changed(1);
        (new.fill)(element, changed.place());
        if self.evicts {
            self.note_birth(element);
        }
        // Whoever finds the key finds this value, and nobody changes it before.
        element.state().store(changed.0, Release);
        let mut back = false;
        for _ in 0..RESTARTS {
            if !next.is_absent() {
                break;
            }
            let word = element.next();
            match word.compare_exchange(next.0, next.live().0, AcqRel, Acquire) {
                Ok(_) => {
                    back = true;
                    break;
                }
                Err(now) => next = Link(now),
            }
        }
        element.state().store(changed.live().0, Release);
        Ok(back)
    }

    /// Claims the element of an entry while its `next` `is` as expected.
    pub(super) fn claim(&self, entry: Entry<'_>, is: impl Fn(Link) -> bool) -> Claim {
        let element = entry.element;
        for _ in 0..PATIENCE {
            // In this order: a state that follows on a value which someone
            // took with the key is not the one that was read.
            let state = State(element.state().load(Acquire));
            let next = Link(element.next().load(Acquire));
            if state.generation() != entry.generation() || !is(next) {
                return Claim::Changed;
            }
            if !state.is_idle() {
                spin_loop();
                continue;
            }
            if let Ok(claimed) = self.pool.claim(element, state) {
                return Claim::Taken(claimed);
            }
        }
        Claim::InHands
    }

    /// Puts a new element in the place of one: `false` when that is not what
    /// it was any more.
    ///
    /// # Safety
    /// As [`Table::update`].
    unsafe fn replace(
        &self,
        new: &New<'_>,
        place: &Place<'_>,
        entry: Entry<'_>,
    ) -> Result<bool, Errno> {
        let held = self
            .take(Stock::Spare, new.start)
            .or_else(|| match self.evicts {
                false => self.take_now(Stock::Regular, new.start),
                true => self.take_or_evict(new.start),
            })
            .ok_or(Errno::EBUSY)?;
        // SAFETY: the caller's contract.
        unsafe { self.prepare(&held, new, entry.next) };
        if self.evicts && entry.next.is_live() {
            lru::mark_used(held.element);
        }
        let replaced = entry.next.leading_to(held.link()).mark(held.stock);
        let word = entry.element.next();
        if word
            .compare_exchange(entry.next.0, replaced.0, AcqRel, Relaxed)
            .is_err()
        {
            self.pool.give_back(held);
            return Ok(false);
        }
        self.linked(held);
        self.retire(entry, place.cell, replaced);
        Ok(true)
    }

    /// Puts a new element at the head of its bucket: `false` when someone else
    /// has put one there.
    ///
    /// # Safety
    /// As [`Table::update`].
    unsafe fn insert(&self, new: &New<'_>, head: Link) -> Result<bool, Errno> {
        let held = match self.evicts {
            false => self.take(Stock::Regular, new.start).ok_or(Errno::E2BIG)?,
            true => self.take_or_evict(new.start).ok_or(Errno::ENOMEM)?,
        };
        // SAFETY: the caller's contract.
        unsafe { self.prepare(&held, new, head) };
        self.pool.note_use(new.hash);
        let bucket = self.pool.bucket(new.hash);
        let link = held.link();
        let linked = bucket.compare_exchange(head.0, link.0, AcqRel, Relaxed);
        match linked {
            Ok(_) => self.linked(held),
            Err(_) => self.pool.give_back(held),
        }
        Ok(linked.is_ok())
    }

    /// What follows on a link to an element. Where elements are evicted, the
    /// hand has to know which are linked.
    fn linked(&self, held: Held<'_>) {
        if self.evicts {
            self.pool.linked(held);
        }
    }

    /// Writes a held element's key and value, and links it to `next`; not yet
    /// visible.
    ///
    /// # Safety
    /// As [`Table::update`].
    unsafe fn prepare(&self, held: &Held<'_>, new: &New<'_>, next: Link) {
        held.element.hash().store(new.hash, Relaxed);
        if self.evicts {
            self.note_birth(held.element);
        }
        // SAFETY: the element's key, which nobody else writes while it is
        // held, and the caller's contract.
        unsafe { super::super::super::bytes::copy(held.element.key(), new.key, self.key_size) };
        (new.fill)(held.element, 0);
        let next = next.held_by(held.generation);
        held.element.next().store(next.0, Release);
    }
}

/// What is to be stored.
struct New<'a> {
    key: *const u8,
    hash: u32,
    flags: u64,
    /// Where to look for a free element.
    start: u32,
    fill: &'a Fill<'a>,
}
