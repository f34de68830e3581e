//! One function as listeners see it. It knows no lock and nothing of gum.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::probe::{Kind, Probe};

/// A probe with the name by which a call recognises it at its return.
#[derive(Clone, Copy)]
pub(super) struct Attached {
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) probe: Probe,
}

/// Probes in attach order. Never changed and never freed: threads read it
/// without a lock, calls keep it until they return.
pub(super) type List = Box<[Attached]>;

/// What one listener runs.
pub(super) struct Shown(AtomicPtr<List>);

impl Shown {
    fn nothing() -> Shown {
        Shown(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// Lets threads see these; what was there stays readable.
    pub(super) fn publish(&self, probes: &[Attached]) {
        let list = Box::into_raw(Box::new(probes.into()));
        self.0.store(list, Ordering::Release);
    }

    /// The probes of this moment. Pairs with the store in `publish`.
    pub(super) fn list(&self) -> &'static [Attached] {
        // SAFETY: null or from `publish`, never freed.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }.map_or(&[], |list| list)
    }
}

/// One hooked function. Never freed.
pub(super) struct Site {
    /// Its first instruction.
    pub(super) addr: u64,
    /// What the listener of entries runs.
    pub(super) entries: Shown,
    /// What the listener of calls runs.
    pub(super) calls: Shown,
    /// Hits skipped since the site was made.
    pub(super) missed: AtomicU64,
}

impl Site {
    pub(super) fn leaked(addr: u64) -> &'static Site {
        Box::leak(Box::new(Site {
            addr,
            entries: Shown::nothing(),
            calls: Shown::nothing(),
            missed: AtomicU64::new(0),
        }))
    }

    /// Counts a skipped hit for each of the probes.
    pub(super) fn miss<'a>(&self, probes: impl Iterator<Item = &'a Attached>) {
        for attached in probes {
            self.missed.fetch_add(1, Ordering::Relaxed);
            // SAFETY: `Probe::missed` is null or valid for ever.
            if let Some(missed) = unsafe { attached.probe.missed.as_ref() } {
                missed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
