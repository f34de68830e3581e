//! Which key follows which: the order in which the kernel walks its tree, that
//! is, longer prefixes before those that they begin with, and else by their
//! bits. It knows no table. For bpf(2) only: it allocates and locks.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::LENGTH;

/// A walk through more keys than these goes on in the order it began with
/// while others change the map.
const EXACT: usize = 4096;

/// The keys of a map in order, as of some count of changes.
#[derive(Default)]
pub(super) struct Order(Mutex<Sorted>);

#[derive(Default)]
struct Sorted {
    /// The map's count of changes that the keys go with, if with any.
    changes: Option<u64>,
    keys: BTreeSet<Key>,
}

/// A change by this process, that has happened.
pub(super) enum Change<'k> {
    /// None, though it was counted.
    Nothing,
    Stored(&'k [u8]),
    Removed(&'k [u8]),
}

impl Order {
    fn sorted(&self) -> MutexGuard<'_, Sorted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key behind `key`; the first one when that is `None` or not there.
    /// `read` reads all keys of the map.
    pub fn after(
        &self,
        key: Option<&[u8]>,
        changes: u64,
        read: impl FnOnce() -> Vec<Box<[u8]>>,
    ) -> Option<Box<[u8]>> {
        let mut sorted = self.sorted();
        let key = key.map(|key| Key(key.into()));
        let there = |sorted: &Sorted| key.as_ref().is_some_and(|key| sorted.keys.contains(key));
        let walking = there(&sorted) && sorted.keys.len() > EXACT;
        if sorted.changes != Some(changes) && !walking {
            sorted.keys = read().into_iter().map(Key).collect();
            sorted.changes = Some(changes);
        }
        let next = match key.as_ref().filter(|_| there(&sorted)) {
            Some(key) => sorted.keys.range((Excluded(key), Unbounded)).next(),
            None => sorted.keys.first(),
        };
        next.map(|key| key.0.clone())
    }

    /// Follows a change, before which the map's count was `before`.
    pub fn follow(&self, before: u64, change: &Change<'_>) {
        let mut sorted = self.sorted();
        if sorted.changes != Some(before) {
            // Others changed the map, or read it before it was changed.
            sorted.changes = None;
            return;
        }
        match change {
            Change::Nothing => {}
            Change::Stored(key) => drop(sorted.keys.replace(Key((*key).into()))),
            Change::Removed(key) => drop(sorted.keys.remove(&Key((*key).into()))),
        }
        sorted.changes = Some(before.wrapping_add(1));
    }
}

/// A key as it was given. Bits beyond its length do not count.
struct Key(Box<[u8]>);

impl Key {
    fn split(&self) -> (u32, &[u8]) {
        match self.0.split_first_chunk::<{ LENGTH as usize }>() {
            Some((length, data)) => (u32::from_le_bytes(*length), data),
            None => (0, &[]),
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        let ((a_length, a), (b_length, b)) = (self.split(), other.split());
        let common = a_length.min(b_length);
        for (at, (a, b)) in (0..common).step_by(8).zip(a.iter().zip(b)) {
            let counts = !(0xffu32 >> (common - at).min(8)) as u8;
            match (a & counts).cmp(&(b & counts)) {
                Ordering::Equal => {}
                other => return other,
            }
        }
        b_length.cmp(&a_length)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}
