//! Which `syscall` instructions there are and which of them are hooked. It
//! knows no probe's meaning and runs under the engine's lock.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hit::{List, Lists, NUMBERS, WATCHED};
use super::memo::{Memo, Place, Recipe};
use super::planning::{self, DEEP};
use super::text::Text;
use super::{SyscallProbe, SyscallSite, When};
use crate::arch::plan::{Plan, Planner};
use crate::arch::syscalls::find::{self, Found};
use crate::arch::syscalls::pool::Exit;
use crate::arch::syscalls::{light, thunk};
use crate::arena::{Arena, Intervals};
use crate::error::Refusal;
use crate::leaving;
use crate::mappings::{self, Mapping};
use crate::module::Module;
use crate::probe::Tactic;
use crate::text::Change;

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
    /// How to plan it again.
    recipe: Option<Recipe>,
    hooked: Result<Hooked, Refusal>,
}

/// One for which there is a trampoline.
struct Hooked {
    tactic: Tactic,
    head: Change,
    is_patched: bool,
    /// Taken back since its text was about to be moved.
    is_away: bool,
}

/// A hook in text that is about to be moved.
pub(crate) struct Moving<'a> {
    /// Takes it back, or puts it back.
    pub(crate) change: Change,
    pub(crate) is_patched: &'a mut bool,
    pub(crate) is_away: &'a mut bool,
}

/// What was found in text.
struct Known {
    text: Arc<Text>,
    found: Vec<(Found, Option<Recipe>)>,
    /// See [`find::doubts`].
    doubts: OnceCell<usize>,
    /// See [`find::others`].
    others: usize,
}

/// A module is missing.
pub(crate) struct Lacking;

/// What is to be done for new text or new probes.
#[derive(Default)]
pub(crate) struct Work {
    /// Sites to plan.
    pub(crate) new: Vec<(Arc<Text>, Found, Option<Recipe>)>,
    /// What nobody has looked at.
    pub(crate) lacking: Vec<Arc<Text>>,
}

impl Known {
    /// By the module, if there is one, else by the memo; neither may do.
    fn look(text: &Arc<Text>, mappings: &[Mapping]) -> Option<Known> {
        let (found, doubts, others) = match (text.module(), &text.memo) {
            (Some(module), _) if module.is_own() => (Vec::new(), OnceCell::from(0), 0),
            (Some(module), _) => {
                let found = find::find(module).into_iter();
                let found = found.map(|found| (found, None)).collect();
                (found, OnceCell::new(), find::others(module))
            }
            (None, Some(memo)) => {
                let places = memo.places.iter();
                let found = places.map(|place| locate(text, place, mappings));
                let doubts = OnceCell::from(memo.doubts as usize);
                (found.collect::<Option<_>>()?, doubts, memo.others as usize)
            }
            (None, None) => return None,
        };
        Some(Known {
            text: text.clone(),
            found,
            doubts,
            others,
        })
    }

    fn doubts(&self) -> usize {
        *self.doubts.get_or_init(|| {
            let found: Vec<u64> = self.found.iter().map(|(found, _)| found.addr).collect();
            let module = self.text.module();
            module.map_or(0, |module| find::doubts(module, &found))
        })
    }
}

/// A remembered place in this process, if memory holds what it held.
fn locate(text: &Text, place: &Place, mappings: &[Mapping]) -> Option<(Found, Option<Recipe>)> {
    let len = place.bytes.len() as u64;
    let start = text.addr_of(place.offset.checked_sub(place.lead())?, len)?;
    let is_readable = |addr| mappings::holding(mappings, addr).is_some_and(|m| m.is_text);
    let is_there = is_readable(start) && is_readable(start + len - 1);
    if !is_there || planning::bytes_at(&(start..start + len)) != place.bytes {
        return None;
    }
    let addr = start + place.lead();
    let mut at = addr;
    let before = place.before.iter().map(|len| {
        at -= u64::from(*len);
        at
    });
    Some((Found::new(addr, place.nr, before.collect()), place.recipe))
}

/// What is to be remembered of an instruction.
fn place(text: &Text, module: &Module, found: &Found, recipe: Option<Recipe>) -> Option<Place> {
    let mut next = found.addr;
    let before = found.before.iter().map(|addr| {
        let len = next - addr;
        next = *addr;
        u8::try_from(len).ok()
    });
    let before = before.collect::<Option<Vec<u8>>>()?;
    let start = found.before.last().unwrap_or(&found.addr);
    let bytes = module.original(*start, (found.addr + 2 - start) as usize)?;
    Some(Place {
        offset: text.offset_of(found.addr)?,
        nr: found.nr,
        before,
        bytes: bytes.to_vec(),
        recipe,
    })
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

    /// Looks at text that is new, and says which sites are to be planned so that
    /// every site is as the probes want it, and for what text a module is
    /// missing.
    ///
    /// Memory may be gone, or be other code, at any later time: all that is in
    /// it is hooked at once, and never written to again.
    pub(crate) fn work(&mut self, texts: &[Arc<Text>], mappings: &[Mapping]) -> Work {
        let mut work = Work::default();
        if self.probes.is_empty() {
            return work;
        }
        for text in texts.iter().filter(|text| text.is_memory()) {
            for found in text.module().iter().flat_map(|module| find::find(module)) {
                work.new.push((text.clone(), found, None));
            }
        }
        for text in texts.iter().filter(|text| !text.is_memory()) {
            let is_known = self
                .known
                .iter()
                .any(|known| Arc::ptr_eq(&known.text, text));
            if !is_known {
                match Known::look(text, mappings) {
                    Some(known) => self.known.push(known),
                    None => work.lacking.push(text.clone()),
                }
            }
        }
        for known in &self.known {
            for (found, recipe) in &known.found {
                if self.wants(found.nr) && !self.by_addr.contains_key(&found.addr) {
                    work.new.push((known.text.clone(), found.clone(), *recipe));
                }
            }
        }
        work
    }

    /// Plans a site; the plan is to be written before [`Sites::due`] is. `Err`
    /// if that takes a module that is missing.
    pub(crate) fn plan(
        &mut self,
        text: &Text,
        found: &Found,
        recipe: Option<Recipe>,
        arena: &mut Arena,
        owned: &mut Intervals,
        can_step: bool,
    ) -> Result<Option<Plan>, Lacking> {
        if text.is_memory() {
            // What was there before was other code.
            let start = found.before.last().unwrap_or(&found.addr);
            owned.remove_starting_in(&(*start..found.addr + 2));
        }
        let mut planner = Planner {
            arena,
            owned,
            can_step,
            wanted: None,
        };
        let replayed =
            recipe.and_then(|recipe| planning::replay(text, found, &recipe, &mut planner).ok());
        let planned = match (replayed, text.module()) {
            (Some(planned), _) => Ok(planned),
            (None, Some(module)) => planning::plan(module, found, &mut planner),
            (None, None) => return Err(Lacking),
        };
        let mut site = Site {
            nr: found.nr,
            is_memory: text.is_memory(),
            recipe: None,
            hooked: Err(Refusal::NoRoom),
        };
        let planned = planned.map(|planned| {
            let plan = planned.plan;
            owned.insert(plan.owned.clone());
            if let Some(padding) = &plan.padding {
                owned.insert(padding.addr..padding.addr + padding.len as u64);
            }
            for exit in &planned.exits {
                aim(exit);
            }
            self.exits.extend(planned.exits);
            site.recipe = planned.recipe;
            site.hooked = Ok(Hooked {
                tactic: plan.tactic,
                head: plan.head,
                is_patched: false,
                is_away: false,
            });
            plan
        });
        if let Err(refusal) = &planned {
            site.hooked = Err(*refusal);
        }
        self.by_addr.insert(found.addr, site);
        Ok(planned.ok())
    }

    /// What is known of a file's text, for the next process that maps it;
    /// nothing where a memo told all of it.
    pub(crate) fn memo(&self, text: &Arc<Text>) -> Option<Memo> {
        let known = self
            .known
            .iter()
            .find(|known| Arc::ptr_eq(&known.text, text))?;
        let module = text.module()?;
        let places = known.found.iter().map(|(found, recipe)| {
            let made = self.by_addr.get(&found.addr).and_then(|site| site.recipe);
            place(text, module, found, made.or(*recipe))
        });
        Some(Memo {
            doubts: u32::try_from(known.doubts()).ok()?,
            others: u32::try_from(known.others).ok()?,
            places: places.collect::<Option<_>>()?,
        })
    }

    /// Changes that bring the text in line with the probes: jumps to write, or
    /// jumps to take back.
    pub(crate) fn due(&self, to_patch: bool) -> Vec<(u64, Change)> {
        let due = self.by_addr.iter().filter_map(|(addr, site)| {
            let hooked = site.hooked.as_ref().ok()?;
            let wants = site.is_memory || self.wants(site.nr);
            let is_due = wants == to_patch && hooked.is_patched != to_patch && !hooked.is_away;
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

    /// The first hook whose jump is in text that is about to be moved, or, with
    /// `is_away`, the first that was taken back there.
    pub(crate) fn next_moving(
        &mut self,
        range: &Range<u64>,
        is_away: bool,
    ) -> Option<(u64, Moving<'_>)> {
        // The jump may stand before the instruction.
        let sites = self.by_addr.range_mut(range.clone());
        let mut hooked = sites.filter_map(|(addr, site)| Some((*addr, site.hooked.as_mut().ok()?)));
        hooked.find_map(|(addr, hooked)| {
            let is_due = hooked.is_away == is_away && hooked.is_patched != is_away;
            let change = if is_away {
                hooked.head
            } else {
                hooked.head.reversed()
            };
            let (is_patched, is_away) = (&mut hooked.is_patched, &mut hooked.is_away);
            let moving = Moving {
                change,
                is_patched,
                is_away,
            };
            is_due.then_some((addr, moving))
        })
    }

    /// What was taken back and is not where it was any more; gives its bytes.
    pub(crate) fn forget_moved(&mut self) -> Vec<u64> {
        let is_moved = |addr: &u64, site: &mut Site| {
            let is_away = site.hooked.as_ref().is_ok_and(|hooked| hooked.is_away);
            is_away && !leaving::is_moving(*addr)
        };
        let moved = self.by_addr.extract_if(.., is_moved);
        let heads = moved.filter_map(|(_, site)| Some(site.hooked.ok()?.head.addr));
        heads.collect()
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
        self.known.retain(|known| !known.text.begins_in(range));
    }

    /// Places in known modules that may be instructions that are not hooked.
    pub(crate) fn doubts(&self) -> usize {
        self.known.iter().map(Known::doubts).sum()
    }

    /// Instructions of known texts that make calls and are of no kind that is
    /// hooked.
    pub(crate) fn others(&self) -> usize {
        self.known.iter().map(|known| known.others).sum()
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
        list => Box::into_raw(Box::new(List::new(list))),
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
            light::exit_address()
        } else {
            thunk::pass_address()
        }
    };
    exit.target.store(target, Ordering::Release);
}
