//! The way to a key, which changes nothing.

use shm::sync::AtomicU64;
use shm::sync::Ordering::{AcqRel, Acquire, Relaxed};

use uapi::Errno;

use super::super::element::Link;
use super::super::key::{Any, Key};
use super::{Entry, Place, Steps, Strayed, Table};

impl Table {
    /// Finds a key that is there.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    #[inline(always)]
    pub unsafe fn find(&self, key: *const u8, hash: u32) -> Option<Entry<'_>> {
        let mut steps = self.steps(1);
        // SAFETY: the caller's contract.
        let any = unsafe { Any::new(key, self.key_size) };
        // SAFETY: the caller's contract.
        let entry = match unsafe { self.search(any, hash, &mut steps) } {
            Ok(place) => place.entry,
            // SAFETY: as above.
            Err(Strayed) => unsafe { self.find_again(key, hash, steps) },
        };
        entry.filter(|entry| entry.next.is_live())
    }

    /// The same with one look, for a key of any form; `None` if others changed
    /// what it stood on.
    ///
    /// # Safety
    /// The key is as long as the table's.
    #[inline(always)]
    pub unsafe fn glance(&self, key: impl Key, hash: u32) -> Option<Option<Entry<'_>>> {
        // SAFETY: the caller's contract.
        let place = unsafe { self.search(key, hash, &mut self.steps(1)) }.ok()?;
        Some(place.entry.filter(|entry| entry.next.is_live()))
    }

    /// # Safety
    /// As [`Table::find`].
    #[cold]
    #[inline(never)]
    unsafe fn find_again(&self, key: *const u8, hash: u32, mut steps: Steps) -> Option<Entry<'_>> {
        // SAFETY: the caller's contract.
        let key = unsafe { Any::new(key, self.key_size) };
        while !steps.are_over() {
            // SAFETY: the caller's contract.
            if let Ok(place) = unsafe { self.search(key, hash, &mut steps) } {
                return place.entry;
            }
        }
        None
    }

    /// The place of a key, in order to change it.
    ///
    /// # Errors
    /// `EBUSY` when other processes never let it through.
    ///
    /// # Safety
    /// As [`Table::find`].
    #[inline(always)]
    pub(super) unsafe fn place(
        &self,
        key: *const u8,
        hash: u32,
        steps: &mut Steps,
    ) -> Result<Place<'_>, Errno> {
        // SAFETY: the caller's contract.
        let any = unsafe { Any::new(key, self.key_size) };
        // SAFETY: the caller's contract.
        match unsafe { self.search(any, hash, steps) } {
            Ok(place) if !place.dirty => Ok(place),
            // SAFETY: as above.
            _ => unsafe { self.place_again(key, hash, steps) },
        }
    }

    /// # Errors
    /// As [`Table::place`].
    ///
    /// # Safety
    /// As [`Table::find`].
    #[cold]
    #[inline(never)]
    unsafe fn place_again(
        &self,
        key: *const u8,
        hash: u32,
        steps: &mut Steps,
    ) -> Result<Place<'_>, Errno> {
        // SAFETY: the caller's contract.
        let key = unsafe { Any::new(key, self.key_size) };
        while !steps.are_over() {
            // SAFETY: the caller's contract.
            match unsafe { self.search(key, hash, steps) } {
                Ok(place) if !place.dirty => return Ok(place),
                Ok(_) => _ = self.sweep(hash, steps),
                Err(Strayed) => {}
            }
        }
        Err(Errno::EBUSY)
    }

    /// # Safety
    /// As [`Table::glance`].
    #[inline(always)]
    unsafe fn search(
        &self,
        key: impl Key,
        hash: u32,
        steps: &mut Steps,
    ) -> Result<Place<'_>, Strayed> {
        let bucket = self.pool.bucket(hash);
        let head = Link(bucket.load(Acquire));
        let mut place = Place {
            head,
            entry: None,
            cell: bucket,
            dirty: false,
        };
        let mut link = head;
        loop {
            let Some(entry) = self.entry(link) else {
                return Ok(place);
            };
            steps.step()?;
            let hit = !entry.next.marked()
                && entry.element.hash().load(Relaxed) == hash
                // SAFETY: the element's key, at a multiple of 8; ours is as long by
                // the caller's contract.
                && unsafe { key.is_at(entry.element.key()) };
            let now = self.state_of(entry.element);
            if now.generation() != entry.generation() {
                return Err(Strayed);
            }
            if hit {
                // It may have been deleted, have come back and have got its
                // value, all between the two looks: looks at it again.
                if !now.has_value_of(entry.state) {
                    continue;
                }
                place.entry = Some(entry);
                return Ok(place);
            }
            place.dirty |= entry.next.marked();
            place.cell = entry.element.next();
            link = entry.next;
        }
    }

    /// Takes all marked elements out of a bucket's list: whether none is left
    /// that was there before.
    pub(super) fn sweep(&self, hash: u32, steps: &mut Steps) -> bool {
        while !steps.are_over() {
            if self.sweep_once(hash, steps).is_ok() {
                return true;
            }
        }
        false
    }

    fn sweep_once(&self, hash: u32, steps: &mut Steps) -> Result<(), Strayed> {
        let mut cell = self.pool.bucket(hash);
        let mut link = Link(cell.load(Acquire));
        while let Some(entry) = self.entry(link) {
            steps.step()?;
            if !self.is_current(entry) {
                return Err(Strayed);
            }
            match entry.next.marked() {
                true => link = unlink(cell, link, entry.next).ok_or(Strayed)?,
                false => {
                    cell = entry.element.next();
                    link = entry.next;
                }
            }
        }
        Ok(())
    }

    /// Does the list of a bucket lead to `wanted`, after marked elements were
    /// taken out of it? `None` if others change it all the time.
    pub(super) fn is_reachable(&self, hash: u32, wanted: Link, steps: &mut Steps) -> Option<bool> {
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
        while let Some(entry) = self.entry(link) {
            steps.step()?;
            if link.same_target(wanted) {
                return Ok(true);
            }
            if !self.is_current(entry) {
                return Err(Strayed);
            }
            link = entry.next;
        }
        Ok(false)
    }
}

/// Lets `cell`, which holds `link` to a marked element, lead to what follows
/// that: the word that `cell` holds then.
pub(super) fn unlink(cell: &AtomicU64, link: Link, after: Link) -> Option<Link> {
    let after = link.leading_to(after);
    let done = cell.compare_exchange(link.0, after.0, AcqRel, Relaxed);
    done.ok().map(|_| after)
}
