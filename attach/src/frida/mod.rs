//! Hooks by frida-gum's interceptor, for comparison and where ours refuses.
//! docs/frida.md says what it cannot do and what it does to a process. It
//! knows no instruction.
//!
//! Reading order: this file (who keeps the probes), [`site`] (what threads
//! see of them), [`hit`] (what they do), [`gum`] (the C library).

mod gum;
mod hit;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::arch::prologue;
use crate::backend::{Backend, HookId, SiteInfo};
use crate::error::{AttachError, Refusal};
use crate::lock::Lock;
use crate::module::Module;
use crate::probe::{Kind, Point, Probe, Tactic};
use gum::{Interceptor, Listener};
use site::{Attached, Shown, Site};

/// A listener of one function.
struct Ear {
    listener: Listener,
    listens: bool,
    shown: fn(&Site) -> &Shown,
    probes: Vec<Attached>,
}

/// What is known of a site. Its second listener hears of returns, too, for
/// which gum replaces return addresses: so it comes with the first probe that
/// needs it, and from then on gets all probes, so that they stay in order.
/// Both stay until there is no probe, since gum tells what an entry leaves to
/// its return by a listener's place among the function's.
struct Record {
    site: &'static Site,
    entries: Ear,
    calls: Ear,
}

impl Record {
    fn new(addr: u64) -> Record {
        let site = Site::leaked(addr);
        let data = core::ptr::from_ref(site).cast();
        let ear = |listener, shown| Ear {
            listener,
            listens: false,
            shown,
            probes: Vec::new(),
        };
        Record {
            site,
            entries: ear(Listener::of_entries(hit::on_entry, data), |site| {
                &site.entries
            }),
            calls: ear(
                Listener::of_calls(hit::on_call, hit::on_return, data),
                |site| &site.calls,
            ),
        }
    }

    fn listens(&self) -> bool {
        self.entries.listens || self.calls.listens
    }

    fn ears(&mut self) -> [&mut Ear; 2] {
        [&mut self.entries, &mut self.calls]
    }

    fn probes(&self) -> impl Iterator<Item = &Attached> {
        self.entries.probes.iter().chain(&self.calls.probes)
    }
}

struct State {
    sites: BTreeMap<u64, Record>,
    hooks: BTreeMap<HookId, u64>,
    /// Functions of unloaded modules, which gum still takes for hooked.
    lost: BTreeSet<u64>,
    next_id: u64,
}

// SAFETY: the raw pointers in probes are passed through, not followed; that
// they may be used on any thread is the contract of `Probe`.
unsafe impl Send for State {}

/// There is one gum in a process, so there is one state, whoever opens it.
static STATE: Lock<State> = Lock::new(State {
    sites: BTreeMap::new(),
    hooks: BTreeMap::new(),
    lost: BTreeSet::new(),
    next_id: 1,
});

/// The back end.
#[derive(Debug)]
pub struct Frida(());

impl Frida {
    /// Starts gum.
    pub fn new() -> Frida {
        Interceptor::obtain();
        Frida(())
    }
}

impl Default for Frida {
    fn default() -> Frida {
        Frida::new()
    }
}

impl Backend for Frida {
    fn attach(&self, batch: &[(Point, Probe)]) -> Vec<Result<HookId, AttachError>> {
        let interceptor = Interceptor::obtain();
        let mut state = STATE.lock();
        interceptor.transaction(|| {
            let attached = batch.iter().map(|(point, probe)| {
                let added = state.add(interceptor, point, *probe);
                added.map_err(|reason| AttachError::Refused {
                    addr: point.addr,
                    reason,
                })
            });
            attached.collect()
        })
    }

    fn detach(&self, ids: &[HookId]) {
        let interceptor = Interceptor::obtain();
        let mut state = STATE.lock();
        interceptor.transaction(|| {
            for id in ids {
                state.remove(interceptor, *id);
            }
        });
    }

    fn forget_range(&self, range: Range<usize>) {
        let range = range.start as u64..range.end as u64;
        let mut state = STATE.lock();
        let state = &mut *state;
        state.hooks.retain(|_, addr| !range.contains(addr));
        for (addr, _) in state.sites.extract_if(range, |_, record| record.listens()) {
            state.lost.insert(addr);
        }
    }

    fn is_settled(&self) -> bool {
        // Nobody knows who is in its trampolines.
        false
    }

    fn sites(&self) -> Vec<SiteInfo> {
        let state = STATE.lock();
        let sites = state
            .sites
            .iter()
            .filter(|(_, record)| record.probes().next().is_some());
        let count = |record: &Record, at_return: bool| {
            let kinds = record.probes().map(|attached| attached.kind);
            kinds
                .filter(|kind| (*kind == Kind::Return) == at_return)
                .count()
        };
        sites
            .map(|(addr, record)| SiteInfo {
                addr: *addr as usize,
                tactic: Tactic::Frida,
                entry_probes: count(record, false),
                return_probes: count(record, true),
                missed: record.site.missed.load(Ordering::Relaxed),
            })
            .collect()
    }
}

impl State {
    fn add(
        &mut self,
        interceptor: Interceptor,
        point: &Point,
        probe: Probe,
    ) -> Result<HookId, Refusal> {
        let (addr, kind) = (point.addr as u64, point.kind);
        if kind == Kind::Override {
            return Err(Refusal::Override);
        }
        let needs_return = kind != Kind::Entry;
        if needs_return && let Some(refusal) = point.module.return_refusal(addr) {
            return Err(refusal);
        }
        if !self.sites.get(&addr).is_some_and(Record::listens) {
            self.check(&point.module, addr)?;
        }
        let record = self.sites.entry(addr).or_insert_with(|| Record::new(addr));
        let by_calls = match probe.is_first {
            // The listener of entries is heard first if there is one.
            true => record.calls.listens && !record.entries.listens,
            false => record.calls.listens,
        };
        let ear = match needs_return || by_calls {
            true => &mut record.calls,
            false => &mut record.entries,
        };
        if !ear.listens {
            // SAFETY: `check` has looked at the function.
            unsafe { interceptor.attach(addr, ear.listener) }?;
            ear.listens = true;
        }
        let id = self.next_id;
        self.next_id += 1;
        let at = if probe.is_first { 0 } else { ear.probes.len() };
        ear.probes.insert(at, Attached { id, kind, probe });
        (ear.shown)(record.site).publish(&ear.probes);
        self.hooks.insert(HookId(id), addr);
        Ok(HookId(id))
    }

    /// What gum does not look at before it changes a function.
    fn check(&self, module: &Module, addr: u64) -> Result<(), Refusal> {
        if self.lost.contains(&addr) {
            return Err(Refusal::Frida("it still hooks a module that was here"));
        }
        let text = module.original(addr, prologue::MOST_MOVED);
        let (text, flow) = text.zip(module.flow(addr)).ok_or(Refusal::OutsideText)?;
        if let Some(refusal) = module.entry_refusal(addr) {
            return Err(refusal);
        }
        // It writes below the stack pointer, where leaf functions keep values.
        if !module.has_start_in(&(addr..addr + 1)) {
            return Err(Refusal::Frida("not the start of a function"));
        }
        let moved = prologue::moved(text, addr)?;
        if !module.is_original(&moved) {
            return Err(Refusal::Patched);
        }
        let behind = addr + 1..moved.end;
        if flow.is_target_in(&behind) || module.has_start_in(&behind) {
            return Err(Refusal::Frida("code jumps to what it would move"));
        }
        Ok(())
    }

    fn remove(&mut self, interceptor: Interceptor, id: HookId) {
        let Some(addr) = self.hooks.remove(&id) else {
            return;
        };
        let Some(record) = self.sites.get_mut(&addr) else {
            return;
        };
        let site = record.site;
        for ear in record.ears() {
            let before = ear.probes.len();
            ear.probes.retain(|attached| attached.id != id.0);
            if ear.probes.len() != before {
                (ear.shown)(site).publish(&ear.probes);
            }
        }
        if record.probes().next().is_none() {
            for ear in record.ears().into_iter().filter(|ear| ear.listens) {
                interceptor.detach(ear.listener);
                ear.listens = false;
            }
        }
    }
}
