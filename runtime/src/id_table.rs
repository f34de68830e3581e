//! Objects of this process by id, which programs find without a lock while
//! others are added. It knows no object. Used from trampolines.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Bits of an object id that pick its place in a table; live ids of a session
/// differ in them.
const SLOT_BITS: u32 = 16;
const LEAF: usize = 1 << (SLOT_BITS / 2);

/// Objects by id, readable without a lock while others are added. Leaves are
/// made when first needed.
pub(crate) struct IdTable<T> {
    leaves: Box<[OnceLock<Leaf<T>>]>,
    /// Entries that were taken out: a program may hold one as long as the
    /// table lives.
    retired: Mutex<Vec<Box<Entry<T>>>>,
}

type Leaf<T> = Box<[AtomicPtr<Entry<T>>]>;

struct Entry<T> {
    id: u32,
    object: T,
}

impl<T> IdTable<T> {
    pub(crate) fn new() -> IdTable<T> {
        IdTable {
            leaves: (0..LEAF).map(|_| OnceLock::new()).collect(),
            retired: Mutex::default(),
        }
    }

    #[inline]
    fn place(id: u32) -> (usize, usize) {
        let slot = id as usize;
        (slot / LEAF % LEAF, slot % LEAF)
    }

    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        let (leaf, slot) = Self::place(id);
        // Pairs with the release store in `insert`.
        let entry = self
            .leaves
            .get(leaf)?
            .get()?
            .get(slot)?
            .load(Ordering::Acquire);
        // SAFETY: entries are freed with the table only.
        let entry = unsafe { entry.as_ref() }?;
        (entry.id == id).then_some(&entry.object)
    }

    pub(crate) fn insert(&self, id: u32, object: T) {
        self.replace(id, Box::into_raw(Box::new(Entry { id, object })));
    }

    pub(crate) fn remove(&self, id: u32) {
        if self.get(id).is_some() {
            self.replace(id, ptr::null_mut());
        }
    }

    fn replace(&self, id: u32, entry: *mut Entry<T>) {
        let (leaf, slot) = Self::place(id);
        let place = self.leaves.get(leaf).and_then(|leaf| {
            leaf.get_or_init(|| (0..LEAF).map(|_| AtomicPtr::default()).collect())
                .get(slot)
        });
        let old = place.map_or(entry, |place| place.swap(entry, Ordering::AcqRel));
        if !old.is_null() {
            // SAFETY: came from `Box::into_raw` and is in no place any more.
            let old = unsafe { Box::from_raw(old) };
            let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.push(old);
        }
    }
}

impl<T> Drop for IdTable<T> {
    fn drop(&mut self) {
        for place in self.leaves.iter().filter_map(OnceLock::get).flatten() {
            let entry = place.load(Ordering::Acquire);
            if !entry.is_null() {
                // SAFETY: came from `Box::into_raw`, and nobody uses the table.
                drop(unsafe { Box::from_raw(entry) });
            }
        }
    }
}
