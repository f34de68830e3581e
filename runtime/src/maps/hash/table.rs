//! A hash table of lists that need no lock, in memory that many processes
//! write and in which any of them may be killed at any instruction. It knows
//! no map and no CPU.
//!
//! A key is inserted at the head of its bucket by one compare-and-swap, which
//! fails if anyone inserted since the list was searched, so keys are unique.
//! It is deleted by marking its element's `next`, and replaced by marking
//! `next` and pointing it to the new element at the same time: readers see
//! the old value or the new. Whoever searches in order to change takes marked
//! elements out of the list. A link carries the generation of its element;
//! a reader who stands on an element that is used anew sees another
//! generation and starts again.

use core::cell::Cell;
use shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release};
use shm::sync::{AtomicU64, fence};

use uapi::Errno;
use uapi::map::{BPF_EXIST, BPF_NOEXIST};

use super::super::{bytes, hasher};
use super::element::{Element, Link, Phase, State, Stock};
use super::lru;
use super::pool::{Held, Pool, Reachable};

/// How often an operation starts again before it gives up with `EBUSY`. Each
/// time another process has got something done.
pub(in crate::maps) const RESTARTS: u32 = 1 << 16;

/// How often a walk over all buckets looks at one anew that changes.
pub(in crate::maps) const LOOKS: u32 = 1 << 10;

/// Least time between two scans by operations that find the table full, in
/// ns: a full table must not cost a scan for each insertion.
const SCAN_EVERY_NS: u64 = 1_000_000_000;

/// Elements of lists that a scan may look at for each element.
const SCAN_ROUNDS: u64 = 16;

pub(in crate::maps) struct Table {
    pub pool: Pool,
    pub key_size: usize,
    pub seed: u64,
    /// A full table evicts instead of refusing.
    pub evicts: bool,
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

/// A key that was found, at the time it was.
#[derive(Clone, Copy)]
pub(in crate::maps) struct Entry<'t> {
    pub element: Element<'t>,
    generation: u64,
    /// Its `next`, unmarked.
    next: Link,
}

/// Where the search for a key ended.
enum Place<'t> {
    Found {
        entry: Entry<'t>,
        /// The word that leads to it, and what that word was.
        cell: &'t AtomicU64,
        link: Link,
    },
    /// The bucket's head when the search began.
    Absent { head: Link },
}

impl Table {
    /// The hash of a key.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    #[inline]
    pub unsafe fn hash(&self, key: *const u8) -> u32 {
        // SAFETY: the caller's contract.
        unsafe { hasher::hash(key, self.key_size, self.seed) }
    }

    /// Steps for an operation that goes over all elements `rounds` times.
    #[inline]
    pub fn steps(&self, rounds: u64) -> Steps {
        Steps(rounds * self.pool.layout.count + u64::from(RESTARTS))
    }

    /// Is the element still the entry that was found?
    #[inline]
    pub fn is_current(&self, entry: Entry<'_>) -> bool {
        fence(Acquire);
        State(entry.element.state().load(Relaxed)).generation() == entry.generation
    }

    /// Finds a key without changing anything.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    #[inline]
    pub unsafe fn find(&self, key: *const u8, hash: u32) -> Option<Entry<'_>> {
        let mut steps = self.steps(1);
        while !steps.are_over() {
            let first = Link(self.pool.bucket(hash).load(Acquire));
            // SAFETY: the caller's contract.
            if let Ok(found) = unsafe { self.walk(first, key, hash, &mut steps) } {
                return found;
            }
        }
        None
    }

    /// # Safety
    /// As [`Table::find`].
    #[inline]
    unsafe fn walk(
        &self,
        first: Link,
        key: *const u8,
        hash: u32,
        steps: &mut Steps,
    ) -> Result<Option<Entry<'_>>, Strayed> {
        let mut link = first;
        loop {
            let Some(element) = self.pool.element(link.number()) else {
                return Ok(None);
            };
            steps.step()?;
            let next = Link(element.next().load(Acquire));
            let hit = !next.marked()
                && element.hash().load(Relaxed) == hash
                // SAFETY: the element's key and, by the caller's contract, ours.
                && unsafe { bytes::equal(element.key(), key, self.key_size) };
            let entry = Entry {
                element,
                generation: link.generation(),
                next,
            };
            if !self.is_current(entry) {
                return Err(Strayed);
            }
            if hit {
                return Ok(Some(entry));
            }
            link = next;
        }
    }

    /// Finds a key in order to change it; takes marked elements out on the
    /// way. With a null key, goes to the end of the list.
    ///
    /// # Safety
    /// `key` is null or readable for the table's key size.
    unsafe fn seek(
        &self,
        key: *const u8,
        hash: u32,
        steps: &mut Steps,
    ) -> Result<Place<'_>, Errno> {
        while !steps.are_over() {
            // SAFETY: the caller's contract.
            if let Ok(place) = unsafe { self.seek_once(key, hash, steps) } {
                return Ok(place);
            }
        }
        Err(Errno::EBUSY)
    }

    /// # Safety
    /// As [`Table::seek`].
    unsafe fn seek_once(
        &self,
        key: *const u8,
        hash: u32,
        steps: &mut Steps,
    ) -> Result<Place<'_>, Strayed> {
        let bucket = self.pool.bucket(hash);
        let mut cell = bucket;
        let mut link = Link(bucket.load(Acquire));
        let mut head = link;
        loop {
            let Some(element) = self.pool.element(link.number()) else {
                return Ok(Place::Absent { head });
            };
            steps.step()?;
            let next = Link(element.next().load(Acquire));
            let hit = !key.is_null()
                && element.hash().load(Relaxed) == hash
                // SAFETY: the element's key and, by the caller's contract, ours.
                && unsafe { bytes::equal(element.key(), key, self.key_size) };
            let entry = Entry {
                element,
                generation: link.generation(),
                next,
            };
            if !self.is_current(entry) {
                return Err(Strayed);
            }
            if next.marked() {
                let after = link.leading_to(next);
                cell.compare_exchange(link.0, after.0, AcqRel, Relaxed)
                    .map_err(|_| Strayed)?;
                if core::ptr::eq(cell, bucket) {
                    head = after;
                }
                link = after;
                continue;
            }
            if hit {
                return Ok(Place::Found { entry, cell, link });
            }
            cell = element.next();
            link = next;
        }
    }

    /// Writes a taken element's key and, by `fill`, its value, and links it
    /// to `next`; not yet visible.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    unsafe fn prepare(
        &self,
        held: &Held<'_>,
        key: *const u8,
        hash: u32,
        next: Link,
        fill: &dyn Fn(Element<'_>),
    ) {
        held.element.hash().store(hash, Relaxed);
        if self.evicts {
            self.note_birth(held.element);
        }
        // SAFETY: the element's key, which nobody else writes while it is
        // held, and the caller's contract.
        unsafe { bytes::copy(held.element.key(), key, self.key_size) };
        fill(held.element);
        let next = next.held_by(held.generation);
        held.element.next().store(next.0, Release);
    }

    /// Stores a value under `key`: `fill` writes it to a new element. When the
    /// key exists, `in_place`, if there is one, changes its value instead.
    ///
    /// # Errors
    /// `EEXIST` and `ENOENT` by flags (`EINVAL` for unknown ones), `E2BIG` when
    /// full, `EBUSY` when other processes never let it through.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    pub unsafe fn update(
        &self,
        key: *const u8,
        flags: u64,
        start: u32,
        fill: &dyn Fn(Element<'_>),
        in_place: Option<&dyn Fn(Element<'_>)>,
    ) -> Result<(), Errno> {
        if flags > BPF_EXIST {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's contract.
        let hash = unsafe { self.hash(key) };
        let start = start.wrapping_mul(8);
        let mut steps = self.steps(1);
        for _ in 0..RESTARTS {
            // SAFETY: the caller's contract.
            let place = unsafe { self.seek(key, hash, &mut steps) }?;
            match place {
                Place::Found { .. } if flags == BPF_NOEXIST => return Err(Errno::EEXIST),
                Place::Absent { .. } if flags == BPF_EXIST => return Err(Errno::ENOENT),
                Place::Found { entry, cell, link } => {
                    if let Some(in_place) = in_place {
                        in_place(entry.element);
                        if self.evicts {
                            lru::mark_used(entry.element);
                        }
                        return Ok(());
                    }
                    let held = self
                        .take(Stock::Spare, start)
                        .or_else(|| match self.evicts {
                            false => self.pool.take(Stock::Regular, start),
                            true => self.take_or_evict(start),
                        })
                        .ok_or(Errno::EBUSY)?;
                    // SAFETY: the caller's contract.
                    unsafe { self.prepare(&held, key, hash, entry.next, fill) };
                    if self.evicts {
                        lru::mark_used(held.element);
                    }
                    let replaced = entry.next.leading_to(held.link()).mark(held.stock);
                    if entry
                        .element
                        .next()
                        .compare_exchange(entry.next.0, replaced.0, AcqRel, Relaxed)
                        .is_ok()
                    {
                        self.pool.linked(held);
                        if self.pool.begin_end(entry.element, entry.generation) {
                            self.end(entry, cell, link, held.link(), hash);
                        }
                        return Ok(());
                    }
                    self.pool.give_back(held);
                }
                Place::Absent { head } => {
                    let held = match self.evicts {
                        false => self.take(Stock::Regular, start).ok_or(Errno::E2BIG)?,
                        true => self.take_or_evict(start).ok_or(Errno::ENOMEM)?,
                    };
                    // SAFETY: the caller's contract.
                    unsafe { self.prepare(&held, key, hash, head, fill) };
                    if self
                        .pool
                        .bucket(hash)
                        .compare_exchange(head.0, held.link().0, AcqRel, Relaxed)
                        .is_ok()
                    {
                        self.pool.linked(held);
                        return Ok(());
                    }
                    self.pool.give_back(held);
                }
            }
        }
        Err(Errno::EBUSY)
    }

    /// Deletes a key; `last` sees its element after it has left the table and
    /// before it is used anew.
    ///
    /// # Errors
    /// `ENOENT` if absent, `EBUSY` when other processes never let it through.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    pub unsafe fn delete(
        &self,
        key: *const u8,
        last: Option<&mut dyn FnMut(Element<'_>)>,
    ) -> Result<(), Errno> {
        // SAFETY: the caller's contract.
        let hash = unsafe { self.hash(key) };
        let mut steps = self.steps(1);
        for _ in 0..RESTARTS {
            // SAFETY: the caller's contract.
            let place = unsafe { self.seek(key, hash, &mut steps) }?;
            let Place::Found { entry, cell, link } = place else {
                return Err(Errno::ENOENT);
            };
            let deleted = entry.next.mark(Stock::Regular);
            if entry
                .element
                .next()
                .compare_exchange(entry.next.0, deleted.0, AcqRel, Relaxed)
                .is_ok()
            {
                let mine = self.pool.begin_end(entry.element, entry.generation);
                if let Some(last) = last {
                    last(entry.element);
                }
                if mine {
                    self.end(entry, cell, link, entry.next, hash);
                }
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    /// Takes a marked element whose end was claimed out of its list, in which
    /// `after` follows it, and frees it.
    fn end(&self, entry: Entry<'_>, cell: &AtomicU64, link: Link, after: Link, hash: u32) {
        let out = cell
            .compare_exchange(link.0, link.leading_to(after).0, AcqRel, Relaxed)
            .is_ok()
            || self.sweep(hash, &mut self.steps(1));
        // An element that may still be linked stays signed with our id until
        // a scan finds it.
        if out {
            self.pool.free(entry.element, entry.generation);
        }
    }

    /// Takes an entry out that somebody else chose: whether this call did.
    pub(super) fn evict(&self, element: Element<'_>, steps: &mut Steps) -> bool {
        let state = State(element.state().load(Acquire));
        let next = Link(element.next().load(Acquire));
        let hash = element.hash().load(Relaxed);
        let generation = state.generation();
        // A word of another generation fails below, too, as the mark of
        // another process does.
        if state.phase() != Phase::Live || next.marked() || next.holder() != generation {
            return false;
        }
        element
            .next()
            .compare_exchange(next.0, next.mark(Stock::Regular).0, AcqRel, Relaxed)
            .is_ok()
            && self.pool.begin_end(element, generation)
            && self.sweep(hash, steps)
            && {
                self.pool.free(element, generation);
                true
            }
    }

    /// Finishes what a dead process has begun with an element: whether there
    /// may be a free one now.
    pub(super) fn rescue(&self, element: Element<'_>, steps: &mut Steps) -> bool {
        self.with_steps(steps, |reachable| self.pool.rescue(element, reachable))
    }

    /// Calls `body` with what says whether elements are linked, and which may
    /// take so many steps in all.
    fn with_steps(&self, steps: &mut Steps, body: impl FnOnce(&Reachable<'_>) -> bool) -> bool {
        let left = Cell::new(steps.0);
        let done = body(&|hash, link| {
            let mut steps = Steps(left.get());
            let found = self.is_reachable(hash, link, &mut steps);
            left.set(steps.0);
            found
        });
        steps.0 = left.get();
        done
    }

    /// Takes all marked elements out of a bucket's list.
    fn sweep(&self, hash: u32, steps: &mut Steps) -> bool {
        // SAFETY: a null key is not read.
        unsafe { self.seek(core::ptr::null(), hash, steps) }.is_ok()
    }

    fn take(&self, stock: Stock, start: u32) -> Option<Held<'_>> {
        if let Some(held) = self.pool.take(stock, start) {
            return Some(held);
        }
        if self.scan_is_due() && self.reclaim() {
            return self.pool.take(stock, start);
        }
        None
    }

    fn scan_is_due(&self) -> bool {
        let Some(last) = self.pool.region.u64_at(super::layout::header::LAST_SCAN) else {
            return false;
        };
        let now = shm::sys::clock_ns(libc::CLOCK_MONOTONIC);
        let before = last.load(Relaxed);
        // A time in the future is nonsense that someone wrote.
        (before > now || before == 0 || now - before >= SCAN_EVERY_NS)
            && last.compare_exchange(before, now, Relaxed, Relaxed).is_ok()
    }

    /// Takes back what killed processes held; `true` if an element came free.
    pub fn reclaim(&self) -> bool {
        self.with_steps(&mut self.steps(SCAN_ROUNDS), |reachable| {
            self.pool.scan(reachable)
        })
    }

    /// Does the list of a bucket lead to `wanted`, after marked elements were
    /// taken out of it? `None` if others change it all the time.
    fn is_reachable(&self, hash: u32, wanted: Link, steps: &mut Steps) -> Option<bool> {
        while self.sweep(hash, steps) {
            let first = Link(self.pool.bucket(hash).load(Acquire));
            if let Ok(reached) = self.leads_to(first, wanted, steps) {
                return Some(reached);
            }
        }
        None
    }

    fn leads_to(&self, first: Link, wanted: Link, steps: &mut Steps) -> Result<bool, Strayed> {
        let mut link = first;
        loop {
            let Some(element) = self.pool.element(link.number()) else {
                return Ok(false);
            };
            steps.step()?;
            if link.same_target(wanted) {
                return Ok(true);
            }
            let entry = Entry {
                element,
                generation: link.generation(),
                next: Link(element.next().load(Acquire)),
            };
            if !self.is_current(entry) {
                return Err(Strayed);
            }
            link = entry.next;
        }
    }

    /// The first entry behind `entry` in its list, or in a later bucket; from
    /// the first bucket for `None`.
    pub fn after(&self, entry: Option<(Entry<'_>, u32)>) -> Option<Entry<'_>> {
        let mut bucket = 0;
        let mut steps = self.steps(1);
        let mut looks = LOOKS;
        if let Some((entry, hash)) = entry {
            bucket = (u64::from(hash) & self.pool.layout.bucket_mask) + 1;
            match self.first_live(entry.next, &mut steps) {
                Ok(Some(found)) => return Some(found),
                Ok(None) => {}
                Err(Strayed) => bucket -= 1,
            }
        }
        while bucket <= self.pool.layout.bucket_mask {
            let head = Link(self.pool.bucket(bucket as u32).load(Acquire));
            match self.first_live(head, &mut steps) {
                Ok(Some(found)) => return Some(found),
                Err(Strayed) if steps.are_over() => return None,
                Err(Strayed) if looks > 0 => looks -= 1,
                Ok(None) | Err(Strayed) => {
                    bucket += 1;
                    looks = LOOKS;
                }
            }
        }
        None
    }

    /// Calls `turn` for the entries, bucket by bucket, until it returns
    /// `false`. Entries that come and go meanwhile, also by `turn`, are seen or
    /// not; none twice in its place.
    pub fn each(&self, turn: &mut dyn FnMut(Element<'_>) -> bool) {
        // Others may insert faster than we go.
        let mut left = self.pool.layout.count;
        let mut steps = self.steps(2);
        for bucket in 0..=self.pool.layout.bucket_mask {
            let mut link = Link(self.pool.bucket(bucket as u32).load(Acquire));
            while left > 0
                && let Ok(Some(entry)) = self.first_live(link, &mut steps)
            {
                left -= 1;
                if !turn(entry.element) {
                    return;
                }
                link = entry.next;
            }
        }
    }

    /// Calls `see` for the entries of a bucket: whether the list stayed as it
    /// was. If not, what was seen is nothing.
    pub fn see_bucket(
        &self,
        bucket: u64,
        steps: &mut Steps,
        see: &mut dyn FnMut(Element<'_>),
    ) -> bool {
        let mut link = Link(self.pool.bucket(bucket as u32).load(Acquire));
        loop {
            let Some(element) = self.pool.element(link.number()) else {
                return true;
            };
            if steps.step().is_err() {
                return false;
            }
            let entry = Entry {
                element,
                generation: link.generation(),
                next: Link(element.next().load(Acquire)),
            };
            if !entry.next.marked() {
                see(element);
            }
            if !self.is_current(entry) {
                return false;
            }
            link = entry.next;
        }
    }

    fn first_live(&self, first: Link, steps: &mut Steps) -> Result<Option<Entry<'_>>, Strayed> {
        let mut link = first;
        loop {
            let Some(element) = self.pool.element(link.number()) else {
                return Ok(None);
            };
            steps.step()?;
            let entry = Entry {
                element,
                generation: link.generation(),
                next: Link(element.next().load(Acquire)),
            };
            if !self.is_current(entry) {
                return Err(Strayed);
            }
            if !entry.next.marked() {
                return Ok(Some(entry));
            }
            link = entry.next;
        }
    }
}

/// The element that a search stood on is used anew, or there are no steps left.
struct Strayed;
