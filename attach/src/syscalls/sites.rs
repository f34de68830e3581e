//! Which `syscall` instructions there are and which of them are hooked. It
//! knows no probe's meaning and runs under the engine's lock.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hit::{Entry, List, Lists, NUMBERS, WATCHED};
use super::{SyscallProbe, SyscallSite, When};
use crate::arch::decode::First;
use crate::arch::plan::{Body, Plan, Planner};
use crate::arch::syscalls::body::{self, Names};
use crate::arch::syscalls::find::{self, Found};
use crate::arch::syscalls::pool::{self, Exit, Kind};
use crate::arch::syscalls::thunk;
use crate::arena::{Arena, Intervals};
use crate::error::Refusal;
use crate::module::Module;
use crate::probe::Tactic;
use crate::text::Change;

/// Enough for any instruction.
const LONGEST: usize = 15;

/// System calls that are hooked as soon as any is traced, for what they tell
/// the agent: new threads and processes, new text.
const ALWAYS: [i64; 8] = [
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_vfork,
    libc::SYS_fork,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_pkey_mprotect,
];

/// One instruction.
struct Site {
    nr: Option<u32>,
    is_memory: bool,
    hooked: Result<Hooked, Refusal>,
}

/// One for which there is a trampoline.
struct Hooked {
    tactic: Tactic,
    head: Change,
    is_patched: bool,
}

/// What was found in a module.
struct Known {
    module: Arc<Module>,
    found: Vec<Found>,
    /// See [`find::doubts`].
    doubts: OnceCell<usize>,
}

/// All that is known of system calls in this process.
pub(crate) struct Sites {
    /// What was found in the modules seen so far.
    known: Vec<Known>,
    by_addr: BTreeMap<u64, Site>,
    /// Stubs whose exit may have probes, by number.
    exits: Vec<&'static Exit>,
    probes: Vec<SyscallProbe>,
}

impl Sites {
    pub(crate) const fn new() -> Sites {
        Sites {
            known: Vec::new(),
            by_addr: BTreeMap::new(),
            exits: Vec::new(),
            probes: Vec::new(),
        }
    }

    /// From now on these probes run, wherever a site is hooked. False if they
    /// did before.
    pub(crate) fn publish(&mut self, probes: &[SyscallProbe]) -> bool {
        if self.probes == probes {
            return false;
        }
        self.probes = probes.to_vec();
        for when in [When::Enter, When::Exit] {
            publish_lists(when, probes);
        }
        let all = probes.iter().any(|probe| probe.nr.is_none());
        for (low, watched) in WATCHED.iter().enumerate() {
            let is_watched = all || low < NUMBERS && self.wants(Some(low as u32));
            watched.store(u8::from(is_watched), Ordering::Release);
        }
        for exit in &self.exits {
            aim(exit);
        }
        true
    }

    /// Whether a site with this number is to be hooked.
    fn wants(&self, nr: Option<u32>) -> bool {
        !self.probes.is_empty()
            && nr.is_none_or(|nr| {
                ALWAYS.contains(&i64::from(nr))
                    || self
                        .probes
                        .iter()
                        .any(|p| p.nr.is_none_or(|wanted| wanted == nr))
            })
    }

    /// Looks at modules that are new, and says what is to be written so that
    /// every site is as the probes want it.
    ///
    /// Memory may be gone, or be other code, at any later time: all that is in
    /// it is hooked at once, and never written to again.
    pub(crate) fn work(&mut self, modules: &[Arc<Module>]) -> Vec<(Arc<Module>, Found)> {
        let mut new = Vec::new();
        for module in modules.iter().filter(|module| module.is_memory()) {
            let found = find::find(module).into_iter();
            new.extend(found.map(|found| (module.clone(), found)));
        }
        for module in modules.iter().filter(|module| !module.is_memory()) {
            let is_known = self
                .known
                .iter()
                .any(|known| Arc::ptr_eq(&known.module, module));
            if !is_known && !module.is_own() {
                self.known.push(Known {
                    module: module.clone(),
                    found: find::find(module),
                    doubts: OnceCell::new(),
                });
            }
        }
        if self.probes.is_empty() {
            return Vec::new();
        }
        for Known { module, found, .. } in &self.known {
            for found in found {
                if self.wants(found.nr) && !self.by_addr.contains_key(&found.addr) {
                    new.push((module.clone(), found.clone()));
                }
            }
        }
        new
    }

    /// Plans a site; the plan is to be written before [`Sites::due`] is.
    pub(crate) fn plan(
        &mut self,
        module: &Module,
        found: &Found,
        arena: &mut Arena,
        owned: &mut Intervals,
        can_step: bool,
    ) -> Option<Plan> {
        if module.is_memory() {
            // What was there before was other code.
            let start = found.before.last().unwrap_or(&found.addr);
            owned.remove_starting_in(&(*start..found.addr + 2));
        }
        let planned = self.try_plan(module, found, arena, owned, can_step);
        let (hooked, plan) = match planned {
            Ok(plan) => {
                owned.insert(plan.owned.clone());
                if let Some(padding) = &plan.padding {
                    owned.insert(padding.addr..padding.addr + padding.len as u64);
                }
                let hooked = Hooked {
                    tactic: plan.tactic,
                    head: plan.head,
                    is_patched: false,
                };
                (Ok(hooked), Some(plan))
            }
            Err(refusal) => (Err(refusal), None),
        };
        self.by_addr.insert(
            found.addr,
            Site {
                nr: found.nr,
                is_memory: module.is_memory(),
                hooked,
            },
        );
        plan
    }

    fn try_plan(
        &mut self,
        module: &Module,
        found: &Found,
        arena: &mut Arena,
        owned: &Intervals,
        can_step: bool,
    ) -> Result<Plan, Refusal> {
        let (entry, exits) = make_entry(found).ok_or(Refusal::NoMemory)?;
        let mut refusal = Refusal::NoRoom;
        // A punned jump only where no other fits.
        for is_last_resort in [false, true] {
            for start in starts(module, found) {
                let chain = chain(module, start, found.addr)?;
                let names = Names {
                    entry: core::ptr::from_ref(entry) as u64,
                    watched: found.nr.is_none().then_some(WATCHED.as_ptr() as u64),
                    unwatched: if start == found.addr {
                        entry.plain
                    } else {
                        found.addr
                    },
                };
                let body = Body {
                    room: body::ROOM,
                    entry: 0,
                    code: &|at, displaced| match displaced {
                        [_] => body::code(at, &chain, names),
                        _ => Err(Refusal::Immovable),
                    },
                };
                let mut planner = Planner {
                    arena: &mut *arena,
                    owned,
                    can_step,
                    wanted: None,
                };
                match planner.plan(module, start, &body) {
                    Ok(plan) if plan.tactic != Tactic::Pun || is_last_resort => {
                        self.exits.extend(exits.iter().copied());
                        for exit in &exits {
                            aim(exit);
                        }
                        return Ok(plan);
                    }
                    Ok(plan) => {
                        for (at, code) in plan.writes {
                            arena.give_back(&(at..at + code.len() as u64));
                        }
                    }
                    Err(error) => refusal = error,
                }
            }
        }
        Err(refusal)
    }

    /// Changes that bring the text in line with the probes: jumps to write, or
    /// jumps to take back.
    pub(crate) fn due(&self, to_patch: bool) -> Vec<(u64, Change)> {
        let due = self.by_addr.iter().filter_map(|(addr, site)| {
            let hooked = site.hooked.as_ref().ok()?;
            let wants = site.is_memory || self.wants(site.nr);
            let is_due = wants == to_patch && hooked.is_patched != to_patch;
            let change = match to_patch {
                true => hooked.head,
                false => hooked.head.reversed(),
            };
            is_due.then_some((*addr, change))
        });
        due.collect()
    }

    /// Notes what became of a change.
    pub(crate) fn changed(&mut self, addr: u64, is_patched: bool) {
        if let Some(Site {
            hooked: Ok(hooked), ..
        }) = self.by_addr.get_mut(&addr)
        {
            hooked.is_patched = is_patched;
        }
    }

    /// A trampoline could not be written, or the bytes were not as expected.
    pub(crate) fn failed(&mut self, addr: u64, refusal: Refusal) {
        if let Some(site) = self.by_addr.get_mut(&addr) {
            site.hooked = Err(refusal);
        }
    }

    /// The text in `range` is gone.
    pub(crate) fn forget_range(&mut self, range: &Range<u64>) {
        self.by_addr.retain(|addr, _| !range.contains(addr));
        self.known.retain(|known| {
            !known
                .module
                .pieces()
                .any(|(start, _)| range.contains(&start))
        });
    }

    /// Places in known modules that may be instructions that are not hooked.
    pub(crate) fn doubts(&self) -> usize {
        let doubts = |known: &Known| {
            let count = || find::doubts(&known.module, &known.found);
            *known.doubts.get_or_init(count)
        };
        self.known.iter().map(doubts).sum()
    }

    /// The sites that the probes want.
    pub(crate) fn list(&self) -> Vec<SyscallSite> {
        let is_wanted = |site: &Site| self.wants(site.nr);
        let wanted = self.by_addr.iter().filter(|(_, site)| is_wanted(site));
        wanted
            .map(|(addr, site)| SyscallSite {
                addr: *addr as usize,
                nr: site.nr,
                tactic: site.hooked.as_ref().map(|h| h.tactic).map_err(|e| *e),
                is_patched: site.hooked.as_ref().is_ok_and(|h| h.is_patched),
            })
            .collect()
    }
}

/// Lets threads see the lists of one side; numbers without a probe of their
/// own share one, and a list that says the same stays.
fn publish_lists(when: When, probes: &[SyscallProbe]) {
    let mine = probes.iter().filter(|probe| probe.when == when);
    let of = |number: Option<u32>| -> Vec<SyscallProbe> {
        let concerns = |probe: &&SyscallProbe| probe.nr.is_none() || probe.nr == number;
        mine.clone().filter(concerns).copied().collect()
    };
    let own: BTreeSet<u32> = mine.clone().filter_map(|probe| probe.nr).collect();
    let shared = of(None);
    let mut shared_list = None;
    let leak = |list: &[SyscallProbe]| match list {
        [] => core::ptr::null_mut(),
        list => Box::into_raw(Box::new(List(list.into()))),
    };
    let lists = Lists::of(when);
    for nr in 0..=NUMBERS as i64 {
        let number = nr as u32;
        let wanted = match own.contains(&number) {
            true => &of(Some(number)),
            false => &shared,
        };
        let Some(place) = lists.place(nr).filter(|_| lists.probes(nr) != wanted) else {
            continue;
        };
        let list = match own.contains(&number) {
            true => leak(wanted),
            false => *shared_list.get_or_insert_with(|| leak(wanted)),
        };
        place.store(list, Ordering::Release);
    }
}

/// Lets a stub run exit probes if its number has any.
fn aim(exit: &Exit) {
    let target = if exit.nr == DEEP {
        thunk::exit_deep_address()
    } else {
        let has_probes = exit.nr >= 0
            && Lists::of(When::Exit)
                .place(exit.nr)
                .is_some_and(|place| !place.load(Ordering::Relaxed).is_null());
        if has_probes {
            thunk::exit_address()
        } else {
            thunk::pass_address()
        }
    };
    exit.target.store(target, Ordering::Release);
}

/// The number of a stub that finds it on the stack, and of one that runs no
/// exit probes.
const DEEP: i64 = -2;
const NONE: i64 = -1;

/// The stubs of an instruction, and what its trampoline knows of them.
fn make_entry(found: &Found) -> Option<(&'static Entry, Vec<&'static Exit>)> {
    let continuation = found.addr + 2;
    let mut exits = Vec::new();
    let mut stub = |kind, nr| {
        let (addr, exit) = pool::stub(kind, continuation, nr)?;
        exits.push(exit);
        Some(addr)
    };
    let entry = match found.nr {
        Some(nr) => Entry {
            continuation,
            plain: stub(Kind::Plain, i64::from(nr))?,
            deep: 0,
            children: [0; 4],
        },
        None => {
            let mut children = [0; 4];
            for (child, nr) in children.iter_mut().zip(super::hit::CHILDREN) {
                *child = stub(Kind::Plain, nr)?;
            }
            Entry {
                continuation,
                plain: stub(Kind::Plain, NONE)?,
                deep: stub(Kind::Deep, DEEP)?,
                children,
            }
        }
    };
    Some((Box::leak(Box::new(entry)), exits))
}

/// Where the jump may stand, in order of preference: not at the start of a
/// function if another place will do, for probes want that.
fn starts(module: &Module, found: &Found) -> Vec<u64> {
    const JUMP: usize = crate::arch::emit::JUMP_LEN;
    let len = |addr: &u64| {
        let bytes = module.original(*addr, LONGEST).unwrap_or(&[]);
        First::decode(bytes, *addr).map_or(0, |first| first.len())
    };
    let (first, rest): (Vec<u64>, Vec<u64>) = found
        .before
        .iter()
        .partition(|addr| module.starts_function(**addr));
    let (long, short): (Vec<u64>, Vec<u64>) = rest.into_iter().partition(|addr| len(addr) >= JUMP);
    [long, vec![found.addr], first, short].concat()
}

/// The instructions from `start` to the system call at `end`.
fn chain(module: &Module, start: u64, end: u64) -> Result<Vec<First>, Refusal> {
    let mut chain = Vec::new();
    let mut at = start;
    while at < end {
        let bytes = module.original(at, LONGEST).ok_or(Refusal::OutsideText)?;
        let first = First::decode(bytes, at)?;
        at = first.next();
        chain.push(first);
    }
    Ok(chain)
}
