//! One hooked address as trampolines see it. Reachable from trampolines: no
//! allocation, no lock, no libc, no panic.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::arch::inline::Inline;
use crate::probe::{Callback, Kind, Needs, Probe};

/// A probe with the name by which a live frame recognises it after changes.
/// Trampolines read all but the last four.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Attached {
    callback: Callback,
    data: *const (),
    /// Where in the thread's block hits are counted.
    hits: usize,
    /// Whether another one follows.
    more: u64,
    pub(crate) id: u64,
    pub(crate) probe: Probe,
    /// It is in both lists of its site, and its return depends on its entry.
    pub(crate) is_session: bool,
    /// It may have the function not run.
    pub(crate) may_override: bool,
}

/// What instructions know of [`Attached`], [`ProbeList`] and [`Site`].
pub(crate) mod offsets {
    use super::{Attached, ProbeList, Site};
    use core::mem::offset_of;

    pub(crate) const CALLBACK: usize = offset_of!(Attached, callback);
    pub(crate) const DATA: usize = offset_of!(Attached, data);
    pub(crate) const HITS: usize = offset_of!(Attached, hits);
    pub(crate) const MORE: usize = offset_of!(Attached, more);
    pub(crate) const NEXT: usize = size_of::<Attached>();
    pub(crate) const FIRST: usize = offset_of!(ProbeList, first);
    pub(crate) const NEWEST: usize = offset_of!(ProbeList, newest);
    pub(crate) const ADDR: usize = offset_of!(Site, addr);
    pub(crate) const ENTRY: usize = offset_of!(Site, entry);
    pub(crate) const EXIT: usize = offset_of!(Site, exit);
    pub(crate) const ARMED: usize = offset_of!(Site, armed);
    const _: () = assert!(offset_of!(ProbeList, needs) == 0);
}

impl Attached {
    pub(crate) fn new(id: u64, mut probe: Probe, kind: Kind) -> Attached {
        if matches!(kind, Kind::Session | Kind::Override) {
            // Whatever the callback reads, what it gives is looked at.
            probe.needs = Needs::EVERYTHING;
            probe.inline = core::ptr::null();
        }
        Attached {
            callback: probe.callback,
            data: probe.data,
            hits: probe.hits.offset(),
            more: 0,
            id,
            probe,
            is_session: kind == Kind::Session,
            may_override: kind == Kind::Override,
        }
    }

    /// The same as its callback, as code for a block. Not from trampolines.
    pub(crate) fn inline(&self) -> Option<&Inline> {
        // SAFETY: valid while the probe is attached (contract of `Probe`).
        unsafe { self.probe.inline.as_ref() }
    }

    /// Where in a thread's block this probe's hits are counted.
    pub(crate) fn hits(&self) -> usize {
        self.hits
    }
}

/// The probes of one site and kind. Never changed; freed when no thread can
/// be reading it.
#[repr(C)]
pub(crate) struct ProbeList {
    /// What any of its callbacks needs, or [`Needs::NOTHING_TO_RUN`].
    needs: u64,
    /// The largest id.
    newest: u64,
    first: *const Attached,
    probes: Box<[Attached]>,
    /// One of them is a session's.
    pub(crate) has_sessions: bool,
}

// SAFETY: what probes point to may be used on any thread (contract of `Probe`).
unsafe impl Send for ProbeList {}
// SAFETY: as above; a list is never changed.
unsafe impl Sync for ProbeList {}

/// The list without a probe.
static NONE: std::sync::LazyLock<ProbeList> = std::sync::LazyLock::new(|| ProbeList::new(&[]));

impl ProbeList {
    /// Stands among lists that were replaced for something else that threads may
    /// still look at.
    pub(crate) fn placeholder() -> Box<ProbeList> {
        Box::new(ProbeList::new(&[]))
    }

    fn new(probes: &[Attached]) -> ProbeList {
        let mut probes: Box<[Attached]> = probes.into();
        let mut needs = 0;
        let mut newest = 0;
        let mut more = 0;
        for attached in probes.iter_mut().rev() {
            attached.more = more;
            more = 1;
            needs |= attached.probe.needs.0;
            newest = newest.max(attached.id);
        }
        if probes.len() > 1 {
            needs |= Needs::SEVERAL.0;
        }
        if probes.is_empty() {
            needs = Needs::NOTHING_TO_RUN.0;
        }
        ProbeList {
            needs: needs.into(),
            newest,
            first: probes.as_ptr(),
            has_sessions: probes.iter().any(|attached| attached.is_session),
            probes,
        }
    }

    /// The list without a probe, which is never freed. Not from trampolines.
    fn none() -> *mut ProbeList {
        core::ptr::from_ref(&*NONE).cast_mut()
    }

    /// Lets threads see `probes` in `place`. Gives the list that was there: a
    /// thread may be reading it. One that says the same stays in place.
    #[must_use]
    pub(crate) fn publish(
        place: &AtomicPtr<ProbeList>,
        probes: &[Attached],
    ) -> Option<Box<ProbeList>> {
        let old = place.load(Ordering::Relaxed);
        // SAFETY: published here and not freed while it is in place.
        let current = unsafe { &*old };
        let ids = |probes: &[Attached]| probes.iter().map(|attached| attached.id).collect();
        let (current, new): (Vec<u64>, Vec<u64>) = (ids(&current.probes), ids(probes));
        if current == new {
            return None;
        }
        let list = if probes.is_empty() {
            ProbeList::none()
        } else {
            Box::into_raw(Box::new(ProbeList::new(probes)))
        };
        place.store(list, Ordering::Release);
        // SAFETY: every list but `none` came from a box, and is in no place now.
        (old != ProbeList::none()).then(|| unsafe { Box::from_raw(old) })
    }

    pub(crate) fn iter(&self) -> core::slice::Iter<'_, Attached> {
        self.probes.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    pub(crate) fn needs(&self) -> Needs {
        Needs(self.needs as u8)
    }

    /// Whether a probe is no session's: it wants every return.
    pub(crate) fn wants_every_return(&self) -> bool {
        self.iter().any(|attached| !attached.is_session)
    }

    /// The largest id in it: later probes are not for frames of now.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Counts a skipped hit for each probe that is `concerned`.
    pub(crate) fn count_missed(&self, concerned: impl Fn(&Attached) -> bool) {
        for attached in self.iter().filter(|attached| concerned(attached)) {
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
    /// Probes at entry. Pairs with the engine's store of a new list.
    pub(crate) entry: AtomicPtr<ProbeList>,
    /// Probes at return. Pairs with the engine's store of a new list.
    pub(crate) exit: AtomicPtr<ProbeList>,
    /// Hits skipped since the site was made.
    pub(crate) missed: AtomicU64,
    /// The number of the block that may run its program, or 0 (`arch::block`).
    pub(crate) armed: AtomicU32,
}

impl Site {
    pub(crate) fn new(addr: u64) -> Site {
        Site {
            addr,
            entry: AtomicPtr::new(ProbeList::none()),
            exit: AtomicPtr::new(ProbeList::none()),
            missed: AtomicU64::new(0),
            armed: AtomicU32::new(0),
        }
    }

    /// The entry probes of this moment. For threads in a hit: their guard
    /// keeps the list.
    pub(crate) fn entry_probes(&self) -> &ProbeList {
        // SAFETY: published by `ProbeList::publish`; freed when no thread has
        // a guard from before it was replaced.
        unsafe { &*self.entry.load(Ordering::Acquire) }
    }

    /// The return probes of this moment, as [`Site::entry_probes`].
    pub(crate) fn exit_probes(&self) -> &ProbeList {
        // SAFETY: as for `entry_probes`.
        unsafe { &*self.exit.load(Ordering::Acquire) }
    }
}
