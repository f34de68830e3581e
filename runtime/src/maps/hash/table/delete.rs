//! Deleting a key, and what becomes of an element that leaves the table.

use shm::sync::AtomicU64;
use shm::sync::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use shm::sys;
use uapi::Errno;

use super::super::element::{Link, State, Stock};
use super::search::unlink;
use super::update::Claim;
use super::{Entry, LOOKS, Place, RESTARTS, Table};
use crate::thread;

/// How long to wait for a process that changes a value which is to be taken
/// out with its key, in ns.
const PATIENCE_NS: u64 = 100_000_000;
/// How long not to wait again after that was in vain.
const DISTRUST_NS: u64 = 1_000_000_000;

/// When this process last waited in vain, in ns of `CLOCK_MONOTONIC`.
#[derive(Default)]
pub(in crate::maps) struct Patience(AtomicU64);

impl Table {
    /// Deletes a key.
    ///
    /// # Errors
    /// `ENOENT` if absent, `EBUSY` when other processes never let it through.
    ///
    /// # Safety
    /// `key` is readable for the table's key size.
    pub unsafe fn delete(&self, key: *const u8) -> Result<(), Errno> {
        // SAFETY: the caller's contract.
        unsafe { self.delete_by(key, |place, entry| self.strike(place, entry)) }
    }

    /// Deletes a key; `read` copies its last value. Only for bpf(2): it may
    /// wait for someone who changes that value.
    ///
    /// # Errors
    /// As [`Table::delete`].
    ///
    /// # Safety
    /// As [`Table::delete`].
    pub unsafe fn take_out(
        &self,
        key: *const u8,
        read: &mut dyn FnMut(Entry<'_>),
    ) -> Result<(), Errno> {
        let once = |place: &Place<'_>, entry: Entry<'_>| match self.pool.layout.has_twins {
            true => self.strike_and_read(entry, read),
            false => self.remove(place, entry, &mut || read(entry)),
        };
        // SAFETY: the caller's contract.
        unsafe { self.delete_by(key, once) }
    }

    /// Looks for a key until `once` has deleted it.
    ///
    /// # Safety
    /// As [`Table::delete`].
    unsafe fn delete_by(
        &self,
        key: *const u8,
        mut once: impl FnMut(&Place<'_>, Entry<'_>) -> bool,
    ) -> Result<(), Errno> {
        // SAFETY: the caller's contract.
        let hash = unsafe { self.hash(key) };
        let mut steps = self.steps(1);
        for _ in 0..RESTARTS {
            // SAFETY: the caller's contract.
            let place = unsafe { self.place(key, hash, &mut steps) }?;
            let live = place.entry.filter(|entry| entry.next.is_live());
            if once(&place, live.ok_or(Errno::ENOENT)?) {
                return Ok(());
            }
        }
        Err(Errno::EBUSY)
    }

    #[inline]
    fn strike(&self, place: &Place<'_>, entry: Entry<'_>) -> bool {
        if !self.pool.layout.has_twins {
            return self.remove(place, entry, &mut || {});
        }
        let gone = set_absent(entry);
        if gone {
            self.pool.hint(entry.element, Stock::Regular);
        }
        gone
    }

    /// Takes a live entry out, of which `read` sees what it was last.
    fn remove(&self, place: &Place<'_>, entry: Entry<'_>, read: &mut dyn FnMut()) -> bool {
        let word = entry.element.next();
        let marked = entry.next.mark(Stock::Regular);
        let gone = word
            .compare_exchange(entry.next.0, marked.0, AcqRel, Relaxed)
            .is_ok();
        if gone {
            let mine = self.pool.begin_end(entry.element, entry.generation());
            read();
            self.leave(entry, place.cell, marked, mine);
        }
        gone
    }

    /// Deletes the key of a live entry and reads its value, which nobody
    /// changes in between.
    fn strike_and_read(&self, entry: Entry<'_>, read: &mut dyn FnMut(Entry<'_>)) -> bool {
        let state = entry.element.state();
        let gone = match self.claim_patiently(entry) {
            Claim::Changed => return false,
            Claim::Taken(claimed) => {
                read(Entry {
                    state: claimed,
                    ..entry
                });
                let gone = set_absent(entry);
                // Two changes, so that whoever means to change the value that
                // was taken does not.
                let changed = if gone { 2 } else { 0 };
                state.store(claimed.changed(changed).live().0, Release);
                gone
            }
            Claim::InHands => {
                for _ in 0..LOOKS {
                    let seen = Entry {
                        state: State(state.load(Acquire)),
                        ..entry
                    };
                    read(seen);
                    if self.has_kept_value(seen) {
                        break;
                    }
                }
                set_absent(entry)
            }
        };
        if gone {
            self.pool.hint(entry.element, Stock::Regular);
        }
        gone
    }

    /// Claims an entry; waits for who has claimed it, if that lives.
    pub(super) fn claim_patiently(&self, entry: Entry<'_>) -> Claim {
        let mut begun = None;
        loop {
            let claim = self.claim(entry, Link::is_live);
            if !matches!(claim, Claim::InHands) {
                return claim;
            }
            let owner = State(entry.element.state().load(Relaxed)).owner();
            if !thread::exists(owner as i32) {
                return claim;
            }
            let now = sys::clock_ns(libc::CLOCK_MONOTONIC);
            let before = self.patience.0.load(Relaxed);
            let waited = now.saturating_sub(*begun.get_or_insert(now));
            if waited > PATIENCE_NS {
                self.patience.0.store(now, Relaxed);
            }
            if waited > PATIENCE_NS || before != 0 && now.saturating_sub(before) < DISTRUST_NS {
                return claim;
            }
            sys::sched_yield();
        }
    }

    /// Sees to the end of an element that was marked by this process, as
    /// `marked` says.
    pub(super) fn retire(&self, entry: Entry<'_>, cell: &AtomicU64, marked: Link) {
        let mine = self.pool.begin_end(entry.element, entry.generation());
        self.leave(entry, cell, marked, mine);
    }

    /// Takes a marked element out of its list and frees it, if it is `mine`.
    fn leave(&self, entry: Entry<'_>, cell: &AtomicU64, marked: Link, mine: bool) {
        let hash = entry.element.hash().load(Relaxed);
        let out =
            unlink(cell, entry.link, marked).is_some() || self.sweep(hash, &mut self.steps(1));
        if !mine {
            // Whoever looks for a free element sees whether it still is in the
            // hands of who has claimed it.
            self.pool.hint(entry.element, marked.stock());
        } else if out {
            self.pool.free(entry.element, entry.generation());
        } else {
            // A scan finds it.
            let state = State(entry.element.state().load(Relaxed));
            entry.element.state().store(state.live().0, Release);
        }
    }
}

/// Deletes the key of a live entry; what it takes to bring it back stays.
fn set_absent(entry: Entry<'_>) -> bool {
    // Of us and of one who takes the element's hint one sees the other.
    entry
        .element
        .next()
        .compare_exchange(entry.next.0, entry.next.absent().0, SeqCst, Relaxed)
        .is_ok()
}
