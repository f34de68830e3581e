//! Who keeps the hooked sites of this process. It knows no instruction and no
//! callback's meaning.
//!
//! A site (its record, trampoline and displaced code) is made once per address
//! and stays for ever: a thread may be anywhere in it. Attaching and detaching
//! swap its probe lists and, for the first and the last probe, its first bytes.
//!
//! Reading order: this file (the state, attaching and detaching), [`record`]
//! (what is known of a site), [`ladder`] (sites, and which need others),
//! [`writing`], [`thunks`] and [`inlined`] (what trampolines hold), [`tracing`]
//! (system calls), [`moved`] and [`forgotten`] (text that goes).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use uapi::Errno;

use crate::arch::plan::Plan;
use crate::arch::{sys, thread};
use crate::arena::{Arena, Intervals};
use crate::backend::{Backend, HookId, SiteInfo};
use crate::breakpoints::{Breakpoints, table};
use crate::error::{AttachError, Refusal};
use crate::guard::{self, Mark};
use crate::leaving;
use crate::libraries;
use crate::lock::Lock;
use crate::mappings::{self, Mapping};
use crate::probe::{Kind, Point, Probe};
use crate::shadow;
use crate::site::{Attached, ProbeList};
use crate::syscalls::hit;
use crate::syscalls::sites::Sites;

mod forgotten;
mod inlined;
mod ladder;
mod moved;
mod record;
mod thunks;
mod tracing;
mod writing;

pub use tracing::Traced;

use forgotten::ForgottenSites;
use ladder::Batch;
use record::Record;
use writing::write_plans;

/// All that the engine's lock protects.
struct State {
    sites: BTreeMap<u64, Record>,
    forgotten: ForgottenSites,
    hooks: BTreeMap<HookId, (u64, Kind)>,
    arena: Option<Arena>,
    owned: Intervals,
    syscalls: Sites,
    breakpoints: Breakpoints,
    next_id: u64,
    /// Lists that are in no place any more, but that a thread may be reading.
    #[expect(clippy::vec_box, reason = "threads know them by address")]
    replaced: Vec<Box<ProbeList>>,
    /// Older ones, and the threads that may be reading those.
    #[expect(clippy::vec_box, reason = "threads know them by address")]
    awaiting: Vec<Box<ProbeList>>,
    inside: Vec<shadow::Inside>,
}

// SAFETY: the raw pointers in probes are passed through, not followed; that
// they may be used on any thread is the contract of `Probe`.
unsafe impl Send for State {}

/// There is one text per process, so there is one state, whoever opens it.
static STATE: Lock<State> = Lock::new(State {
    sites: BTreeMap::new(),
    forgotten: ForgottenSites::new(),
    hooks: BTreeMap::new(),
    arena: None,
    owned: Intervals::new(),
    syscalls: Sites::new(),
    breakpoints: Breakpoints::Never,
    next_id: 1,
    replaced: Vec::new(),
    awaiting: Vec::new(),
    inside: Vec::new(),
});

/// The hook engine. Engines of one process share their sites.
#[derive(Debug)]
pub struct Engine {
    can_step: bool,
}

impl Engine {
    /// Registers with the kernel (membarrier) and for fork(2).
    ///
    /// Errors: [`AttachError::System`] if fork handlers cannot be registered.
    pub fn new() -> Result<Engine, AttachError> {
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        if !REGISTERED.swap(true, Ordering::Relaxed) {
            // SAFETY: the handlers only take and give the engine's lock; they
            // stay loaded as long as the sites do.
            let error = unsafe {
                libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child))
            };
            if error != 0 {
                REGISTERED.store(false, Ordering::Relaxed);
                return Err(AttachError::System {
                    what: "register for fork",
                    error: Errno(error),
                });
            }
        }
        Ok(Engine {
            can_step: sys::register_sync_cores().is_ok(),
        })
    }

    /// The memory that holds trampolines.
    pub fn own_text(&self) -> Vec<Range<usize>> {
        let state = STATE.lock();
        let mapped = state.arena.iter().flat_map(Arena::mapped);
        mapped
            .map(|range| range.start as usize..range.end as usize)
            .collect()
    }

    /// Probes are skipped, and not counted as missed, on the calling thread
    /// from now on: the agent's own.
    pub fn exempt_thread() {
        thread::current().is_exempt.set(true);
        hit::own_thread_is_known();
    }

    /// Probes and system calls are skipped, and not counted as missed, on the
    /// calling thread while `body` runs. A thread that it starts is the agent's
    /// own, and has to call [`Engine::exempt_thread`].
    pub fn exempted<T>(body: impl FnOnce() -> T) -> T {
        let thread = thread::current();
        // Trampolines that hold programs look at the guard of a thread's block only.
        let mut mark = Mark::new();
        let shadow = guard::enter_again(thread, &mut mark);
        let before = thread.is_exempt.replace(true);
        let result = body();
        thread.is_exempt.set(before);
        if let Some(shadow) = shadow {
            guard::leave(shadow, &mut mark);
        }
        result
    }
}

impl Engine {
    /// Which new places get a breakpoint from now on. Only while they are
    /// armed, or a thread that hits one is killed.
    pub fn place_breakpoints(&self, places: Breakpoints) {
        STATE.lock().breakpoints = places;
    }

    /// [`Backend::attach`], while no library can be closed.
    fn attach_now(&self, batch: &[(Point, Probe)]) -> Vec<Result<HookId, AttachError>> {
        // One may have been closed before.
        let mapped = mappings::own();
        let mut state = STATE.lock();
        let (results, plans) = state.add_batch(batch, mapped.as_deref(), self.can_step);
        let hooked = results
            .iter()
            .zip(batch)
            .filter(|(result, _)| result.is_ok());
        let touched = hooked.map(|(_, (point, _))| point.addr as u64).collect();
        let with_addr = |(result, (point, _)): (Result<HookId, Refusal>, &(Point, Probe))| {
            result.map_err(|reason| refused(point.addr as u64, reason))
        };
        let mut results: Vec<_> = results.into_iter().zip(batch).map(with_addr).collect();
        state.publish(&touched);
        let mut failed = write_plans(&state.with_thunks(plans));
        state.choose_thunks(&touched, self.can_step);
        failed.extend(state.patch(&touched, &failed, self.can_step));
        if !failed.is_empty() {
            for (result, (point, _)) in results.iter_mut().zip(batch) {
                let Some(error) = failed.get(&(point.addr as u64)) else {
                    continue;
                };
                if let Ok(id) = *result {
                    state.remove(id);
                    *result = Err(error.clone());
                }
            }
            state.publish(&failed.into_keys().collect());
        }
        state.free_replaced(self.can_step);
        results
    }
}

impl Backend for Engine {
    fn attach(&self, batch: &[(Point, Probe)]) -> Vec<Result<HookId, AttachError>> {
        libraries::held(|| self.attach_now(batch))
    }

    fn detach(&self, ids: &[HookId]) {
        libraries::held(|| {
            let mut state = STATE.lock();
            let touched: BTreeSet<u64> = ids.iter().filter_map(|id| state.remove(*id)).collect();
            state.publish(&touched);
            state.choose_thunks(&touched, self.can_step);
            state.unpatch(&touched, self.can_step);
            state.free_replaced(self.can_step);
        });
    }

    fn forget_range(&self, range: Range<usize>) {
        // What was there is gone; what is there now may be about to go, too.
        libraries::held(|| {
            let mut state = STATE.lock();
            let range = range.start as u64..range.end as u64;
            state.forget_sites(&range, self.can_step);
            state.hooks.retain(|_, (addr, _)| !range.contains(addr));
            state.owned.remove_starting_in(&range);
            state.forgotten.forget_range(&range);
            state.syscalls.forget_range(&range);
            table::forget_range(&range);
        });
    }

    fn is_settled(&self) -> bool {
        let mut state = STATE.lock();
        state.free_replaced(self.can_step)
    }

    fn sites(&self) -> Vec<SiteInfo> {
        let state = STATE.lock();
        let sites = state.sites.iter().filter(|(_, record)| !record.is_idle());
        sites
            .map(|(addr, record)| SiteInfo {
                addr: *addr as usize,
                tactic: record.tactic,
                entry_probes: record.entry.len(),
                return_probes: record.exit.len(),
                missed: record.site.missed.load(Ordering::Relaxed),
            })
            .collect()
    }
}

/// What came of each probe of a batch.
type Added = Vec<Result<HookId, Refusal>>;

impl State {
    /// Adds the probes of a batch, where that is possible, to lists that no
    /// thread sees yet; gives the plans of what is to be written first.
    fn add_batch(
        &mut self,
        batch: &[(Point, Probe)],
        mapped: Option<&[Mapping]>,
        can_step: bool,
    ) -> (Added, Vec<(u64, Plan)>) {
        let mut plans = Vec::new();
        let mut results: Added = batch.iter().map(|_| Err(Refusal::NoRoom)).collect();
        let order = ladder::Order::of(batch);
        for index in order.indices {
            let (Some((point, probe)), Some(result)) = (batch.get(index), results.get_mut(index))
            else {
                continue;
            };
            let addr = point.addr as u64;
            if mapped.is_some_and(|mapped| mappings::holding(mapped, addr).is_none()) {
                *result = Err(Refusal::OutsideText);
                continue;
            }
            let attached = Attached::new(0, *probe, point.kind);
            let inline = attached.inline().filter(|_| point.kind == Kind::Entry);
            let mut planned = Batch {
                work: inline.map(|inline| (addr, inline.clone(), attached.hits())),
                module: &point.module,
                can_step,
                wanted: &order.wanted,
                plans: &mut plans,
            };
            *result = self
                .site_for(addr, point.kind, &mut planned)
                .map(|()| self.add(addr, point.kind, *probe));
        }
        (results, plans)
    }

    /// Sees to it that there is a site at `addr`, planned if it is new.
    fn site_for(&mut self, addr: u64, kind: Kind, batch: &mut Batch<'_>) -> Result<(), Refusal> {
        let module = batch.module;
        if kind != Kind::Entry
            && let Some(refusal) = module.return_refusal(addr)
        {
            return Err(refusal);
        }
        if module.is_refused_by_kernel(addr) {
            return Err(Refusal::NotSupported);
        }
        self.site_at(addr, batch)
    }

    fn add(&mut self, addr: u64, kind: Kind, probe: Probe) -> HookId {
        let id = self.next_id;
        self.next_id += 1;
        if let Some(record) = self.sites.get_mut(&addr) {
            let attached = Attached::new(id, probe, kind);
            for list in record.lists(kind) {
                let at = if probe.is_first { 0 } else { list.len() };
                list.insert(at, attached);
            }
        }
        self.hooks.insert(HookId(id), (addr, kind));
        HookId(id)
    }

    /// Takes a probe off its list; gives the site to publish.
    fn remove(&mut self, id: HookId) -> Option<u64> {
        let (addr, kind) = self.hooks.remove(&id)?;
        let record = self.sites.get_mut(&addr)?;
        for list in record.lists(kind) {
            list.retain(|attached| attached.id != id.0);
        }
        Some(addr)
    }

    /// Lets threads see the lists of these sites.
    fn publish(&mut self, sites: &BTreeSet<u64>) {
        let records = sites.iter().filter_map(|addr| self.sites.get(addr));
        self.replaced.extend(records.flat_map(Record::publish));
    }

    /// Frees lists that no thread can be reading any more. Whether all are.
    fn free_replaced(&mut self, can_step: bool) -> bool {
        loop {
            self.inside.retain(|inside| !inside.has_left());
            if !self.inside.is_empty() {
                return false;
            }
            self.awaiting.clear();
            if self.replaced.is_empty() {
                return true;
            }
            // From here on a thread that enters a hit sees the new lists, and
            // one that has entered before is seen by its guard. Without a
            // barrier nobody knows what the guards of others are.
            if !can_step || sys::sync_cores().is_err() {
                return false;
            }
            core::mem::swap(&mut self.awaiting, &mut self.replaced);
            self.inside = shadow::inside();
        }
    }
}

fn refused(addr: u64, reason: Refusal) -> AttachError {
    AttachError::Refused {
        addr: addr as usize,
        reason,
    }
}

extern "C" fn before_fork() {
    // In the order of those who change text.
    let holds_libraries = libraries::before_fork();
    STATE.acquire();
    libraries::note_fork(holds_libraries);
}

extern "C" fn after_fork() {
    libraries::after_fork();
    // SAFETY: `before_fork` has acquired it on this thread.
    unsafe { STATE.release() };
}

extern "C" fn in_child() {
    libraries::after_fork();
    // SAFETY: `before_fork` has acquired it on the thread that became us.
    unsafe { STATE.release() };
    leaving::forget();
    shadow::after_fork(thread::current());
}
