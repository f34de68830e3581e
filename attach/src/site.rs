//! One hooked address as trampolines see it. Reachable from trampolines: no
//! allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::probe::Probe;

/// A probe with the name by which a live frame recognises it after changes.
#[derive(Clone, Copy)]
pub(crate) struct Attached {
    pub(crate) id: u64,
    pub(crate) probe: Probe,
}

/// The probes of one site and kind. Never changed and never freed: threads
/// read it without a lock, frames keep it until they return.
pub(crate) struct ProbeList {
    probes: Box<[Attached]>,
}

impl ProbeList {
    /// Lets threads see `probes` in `place`, null for none. What was there
    /// stays readable; a list that says the same stays in place.
    pub(crate) fn publish(place: &AtomicPtr<ProbeList>, probes: &[Attached]) {
        // SAFETY: null or published here, never freed.
        let current = unsafe { place.load(Ordering::Relaxed).as_ref() };
        let current = current.map_or(&[][..], |list| &list.probes);
        if current
            .iter()
            .map(|attached| attached.id)
            .eq(probes.iter().map(|attached| attached.id))
        {
            return;
        }
        let list = if probes.is_empty() {
            core::ptr::null_mut()
        } else {
            Box::into_raw(Box::new(ProbeList {
                probes: probes.into(),
            }))
        };
        place.store(list, Ordering::Release);
    }

    pub(crate) fn iter(&self) -> core::slice::Iter<'_, Attached> {
        self.probes.iter()
    }

    pub(crate) fn holds(&self, id: u64) -> bool {
        self.iter().any(|attached| attached.id == id)
    }

    /// Counts a skipped hit for each probe.
    pub(crate) fn count_missed(&self) {
        for attached in self.iter() {
            // SAFETY: `Probe::missed` is null or valid for ever.
            if let Some(missed) = unsafe { attached.probe.missed.as_ref() } {
                missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// One hooked address. Never freed: threads may be in its trampoline.
#[repr(C)]
pub(crate) struct Site {
    /// The function's first instruction; the trampoline's thunk reads it.
    pub(crate) addr: u64,
    /// Probes at entry, or null. Pairs with the engine's store of a new list.
    pub(crate) entry: AtomicPtr<ProbeList>,
    /// Probes at return, or null. Pairs with the engine's store of a new list.
    pub(crate) exit: AtomicPtr<ProbeList>,
    /// Hits skipped since the site was made.
    pub(crate) missed: AtomicU64,
}

const _: () = assert!(core::mem::offset_of!(Site, addr) == 0);

impl Site {
    pub(crate) fn new(addr: u64) -> Site {
        Site {
            addr,
            entry: AtomicPtr::new(core::ptr::null_mut()),
            exit: AtomicPtr::new(core::ptr::null_mut()),
            missed: AtomicU64::new(0),
        }
    }

    /// The entry probes of this moment.
    pub(crate) fn entry_probes(&self) -> Option<&ProbeList> {
        // SAFETY: null or published by `ProbeList::publish`, never freed.
        unsafe { self.entry.load(Ordering::Acquire).as_ref() }
    }

    /// The return probes of this moment.
    pub(crate) fn exit_probes(&self) -> Option<&ProbeList> {
        // SAFETY: as for `entry_probes`.
        unsafe { self.exit.load(Ordering::Acquire).as_ref() }
    }
}
