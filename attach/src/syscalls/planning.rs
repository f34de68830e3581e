//! How one `syscall` instruction is hooked: by what was found out before, or
//! by a look at the text around it. It keeps nothing.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::hit::{Entry, WATCHED};
use super::memo::{JUMP, Recipe};
use super::text::Text;
use crate::arch::decode::First;
use crate::arch::plan::{Body, Plan, Planner};
use crate::arch::syscalls::body::{self, Names};
use crate::arch::syscalls::find::Found;
use crate::arch::syscalls::light;
use crate::arch::syscalls::pool::{self, Exit, Kind};
use crate::arch::syscalls::replay;
use crate::arch::syscalls::thunk;
use crate::error::Refusal;
use crate::module::Module;
use crate::probe::Tactic;

/// Enough for any instruction.
const LONGEST: usize = 15;

/// The number of a stub that finds it on the stack, and of one that runs no
/// exit probes.
pub(super) const DEEP: i64 = -2;
const NONE: i64 = -1;

/// A plan, the stubs of its instruction and how to make it again.
pub(super) struct Planned {
    pub(super) plan: Plan,
    pub(super) exits: Vec<&'static Exit>,
    pub(super) recipe: Option<Recipe>,
}

/// By a look at the module.
pub(super) fn plan(
    module: &Module,
    found: &Found,
    planner: &mut Planner<'_>,
) -> Result<Planned, Refusal> {
    let (entry, exits) = make_entry(found).ok_or(Refusal::NoMemory)?;
    let mut refusal = Refusal::NoRoom;
    // A punned jump only where no other fits.
    for is_last_resort in [false, true] {
        for start in starts(module, found) {
            let chain = chain(module, start, found.addr)?;
            let planned = with_body(&chain, start, found, entry, |body| {
                planner.plan(module, start, body)
            });
            match planned {
                Ok(plan) if plan.tactic != Tactic::Pun || is_last_resort => {
                    let recipe = replay::recipe(module, &plan, found.addr, &found.before);
                    return Ok(Planned {
                        plan,
                        exits,
                        recipe,
                    });
                }
                Ok(plan) => {
                    for (at, code) in plan.writes {
                        planner.arena.give_back(&(at..at + code.len() as u64));
                    }
                }
                Err(error) => refusal = error,
            }
        }
    }
    Err(refusal)
}

/// By a recipe; the text is mapped and readable.
pub(super) fn replay(
    text: &Text,
    found: &Found,
    recipe: &Recipe,
    planner: &mut Planner<'_>,
) -> Result<Planned, Refusal> {
    let start = match usize::from(recipe.back).checked_sub(1) {
        None => found.addr,
        Some(index) => *found.before.get(index).ok_or(Refusal::OutsideText)?,
    };
    let around = text.around(start).ok_or(Refusal::OutsideText)?;
    let (distance, _) = recipe.dead.unwrap_or_default();
    let dead = start.checked_add_signed(distance.into());
    let dead = dead.ok_or(Refusal::OutsideText)?;
    let window = start.min(dead)..(found.addr + LONGEST as u64).max(dead + JUMP as u64);
    let window = window.start.max(around.start)..window.end.min(around.end);
    let module = Module::of_memory(window.start as usize, &bytes_at(&window));
    let chain = chain(&module, start, found.addr)?;
    let (entry, exits) = make_entry(found).ok_or(Refusal::NoMemory)?;
    let plan = with_body(&chain, start, found, entry, |body| {
        planner.replay(&module, start, recipe, body)
    })?;
    Ok(Planned {
        plan,
        exits,
        recipe: Some(*recipe),
    })
}

/// What memory holds, of text that is mapped and readable.
pub(super) fn bytes_at(range: &Range<u64>) -> Vec<u8> {
    let at = range.clone();
    // SAFETY: the caller has looked that it is mapped readable, and libraries
    // cannot be closed meanwhile.
    at.map(|addr| unsafe { (addr as *const u8).read_volatile() })
        .collect()
}

/// Gives `plan` what the trampoline of an instruction contains.
fn with_body(
    chain: &[First],
    start: u64,
    found: &Found,
    entry: &'static Entry,
    plan: impl FnOnce(&Body<'_>) -> Result<Plan, Refusal>,
) -> Result<Plan, Refusal> {
    let names = Names {
        entry: core::ptr::from_ref(entry) as u64,
        watched: found.nr.is_none().then_some(WATCHED.as_ptr() as u64),
        unwatched: if start == found.addr {
            entry.plain
        } else {
            found.addr
        },
    };
    plan(&Body {
        room: body::ROOM,
        entry: 0,
        code: &|at, displaced| match displaced {
            [_] => body::code(at, chain, names),
            _ => Err(Refusal::Immovable),
        },
    })
}

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
            continuation: AtomicU64::new(continuation),
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
                continuation: AtomicU64::new(continuation),
                plain: stub(Kind::Plain, NONE)?,
                deep: stub(Kind::Deep, DEEP)?,
                children,
            }
        }
    };
    Some((Box::leak(Box::new(entry)), exits))
}

/// An entry for a place that is known only when a call is made there.
pub(super) struct Dispatched {
    pub(super) entry: &'static Entry,
    /// Its stubs.
    exits: Vec<(u64, &'static Exit)>,
}

/// Makes one. Never freed.
pub(super) fn make_dispatched() -> Option<&'static mut Dispatched> {
    let (entry, exits) = make_entry(&Found::new(0, None, Vec::new()))?;
    let [children @ .., _plain, deep] = exits.as_slice() else {
        return None;
    };
    for child in children {
        child.target.store(light::exit_address(), Ordering::Release);
    }
    let addresses = entry.children.iter().chain([&entry.plain, &entry.deep]);
    deep.target
        .store(thunk::exit_deep_address(), Ordering::Release);
    let exits = addresses.copied().zip(exits.iter().copied()).collect();
    Some(Box::leak(Box::new(Dispatched { entry, exits })))
}

impl Dispatched {
    /// Sends calls on to `continuation`. Reachable from a signal handler.
    pub(super) fn aim(&self, continuation: u64) {
        for (stub, exit) in &self.exits {
            pool::set_continuation(*stub, exit, continuation);
        }
        self.entry
            .continuation
            .store(continuation, Ordering::Release);
    }
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
