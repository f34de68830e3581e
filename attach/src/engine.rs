//! Who keeps the hooked sites of this process. It knows no instruction and no
//! callback's meaning.
//!
//! A site (its record, trampoline and displaced code) is made once per address
//! and stays for ever: a thread may be anywhere in it. Attaching and detaching
//! swap its probe lists and, for the first and the last probe, its first bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uapi::Errno;

use crate::arch::block;
use crate::arch::plan::{Need, Plan};
use crate::arch::{decode, direct, entry, sys, thread};
use crate::arena::{Arena, Intervals};
use crate::backend::{Backend, HookId, SiteInfo};
use crate::breakpoints::{Breakpoints, table};
use crate::error::{AttachError, Refusal};
use crate::leaving;
use crate::libraries;
use crate::lock::Lock;
use crate::mappings;
use crate::module::Module;
use crate::probe::{Kind, Point, Probe, Tactic};
use crate::shadow;
use crate::site::{Attached, ProbeList, Site};
use crate::syscalls::hit;
use crate::syscalls::sites::{Lacking, Sites, Work};
use crate::syscalls::{Memo, SyscallProbe, SyscallSite, Text};
use crate::text::{self, Change, Outcome, TextWriter};

mod forgotten;
mod inlined;
mod ladder;
mod moved;

use forgotten::ForgottenSites;
use inlined::Blocks;
use ladder::Batch;

/// What the engine knows of a site.
struct Record {
    site: &'static Site,
    tactic: Tactic,
    head: Change,
    is_patched: bool,
    /// Taken back since its text was about to be moved.
    is_away: bool,
    /// Where the trampoline begins, with the address of its thunk.
    trampoline: u64,
    thunk: u64,
    /// Nobody needs the status flags at the address.
    flags_dead: bool,
    /// Another site that has to be patched as long as this one is.
    needs: Option<Need>,
    /// How many patched sites need this one, and how many of them undone first.
    holders: usize,
    leaning: usize,
    /// Bytes at the address that the plan changes or relies on.
    owned: Range<u64>,
    /// The trampoline's last jump, and where it goes.
    tail: Option<(u64, u64)>,
    entry: Vec<Attached>,
    exit: Vec<Attached>,
    blocks: Blocks,
}

impl Record {
    fn new(site: Box<Site>, plan: &Plan, work: Option<block::Work>, module: &Module) -> Record {
        let flags_dead = flags_dead(module, site.addr);
        let code = plan.writes.last();
        let (trampoline, code) = code.map_or((0, &[][..]), |(at, code)| (*at, code));
        Record {
            flags_dead,
            site: Box::leak(site),
            tactic: plan.tactic,
            head: plan.head,
            is_patched: false,
            is_away: false,
            trampoline,
            thunk: entry::address(),
            owned: plan.owned.clone(),
            needs: plan.needs,
            holders: 0,
            leaning: 0,
            tail: plan.tail,
            entry: Vec::new(),
            exit: Vec::new(),
            blocks: Blocks::of(trampoline, code, work.map(|work| (work, flags_dead))),
        }
    }

    /// The lists that probes of a kind are in.
    fn lists(&mut self, kind: Kind) -> impl Iterator<Item = &mut Vec<Attached>> {
        let at_entry = kind != Kind::Return;
        let at_exit = matches!(kind, Kind::Return | Kind::Session);
        let entry = at_entry.then_some(&mut self.entry);
        entry.into_iter().chain(at_exit.then_some(&mut self.exit))
    }

    /// Lets threads see the lists; gives the old ones.
    fn publish(&self) -> impl Iterator<Item = Box<ProbeList>> + use<> {
        self.disarm();
        let entry = ProbeList::publish(&self.site.entry, &self.entry);
        let exit = ProbeList::publish(&self.site.exit, &self.exit);
        entry.into_iter().chain(exit)
    }

    /// The thunk that fits the published lists.
    fn best_thunk(&self) -> u64 {
        // The engine's lock is held, so nobody frees the lists.
        direct::thunk(
            self.site.entry_probes(),
            self.site.exit_probes(),
            self.flags_dead,
        )
    }

    fn is_idle(&self) -> bool {
        self.entry.is_empty() && self.exit.is_empty()
    }
}

/// Whether nobody needs the status flags at `addr`.
fn flags_dead(module: &Module, addr: u64) -> bool {
    let code = module.original(addr, FLAGS_WINDOW);
    code.is_some_and(|code| decode::overwrites_flags(code, addr))
}

/// Bytes of code that are looked at for what overwrites the flags.
const FLAGS_WINDOW: usize = 64;

/// What came of [`Engine::trace_syscalls`].
#[derive(Debug, Default)]
pub struct Traced {
    /// An instruction is hooked that was not before: a thread may be right
    /// before it, behind the hook.
    pub has_hooked: bool,
    /// What was not hooked for want of a module: to be given again with one.
    pub lacking: Vec<Arc<Text>>,
}

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

    /// From now on exactly these probes run at system calls, made by whatever
    /// instruction of these texts or of others that were given before.
    /// [`Engine::syscall_sites`] tells which could not be hooked.
    pub fn trace_syscalls(&self, texts: &[Arc<Text>], probes: &[SyscallProbe]) -> Traced {
        libraries::held(|| {
            let mut state = STATE.lock();
            if state.syscalls.publish(probes) {
                // What the old lists lead to may go when the engine is settled.
                state.replaced.push(ProbeList::placeholder());
            }
            state.hook_syscalls(texts, self.can_step)
        })
    }

    /// What was found out about a text of a file, for the next process that
    /// maps that; nothing where its memo told all.
    pub fn syscall_memo(&self, text: &Arc<Text>) -> Option<Memo> {
        STATE.lock().syscalls.memo(text)
    }

    /// How many places of the texts may be system call instructions that are
    /// not hooked, for all that can be told.
    pub fn syscall_doubts(&self) -> usize {
        STATE.lock().syscalls.doubts()
    }

    /// How many instructions of these texts make system calls and are of no
    /// kind that is hooked: `int 0x80`.
    pub fn other_syscalls(&self) -> usize {
        STATE.lock().syscalls.others()
    }

    /// The memory that holds trampolines.
    pub fn own_text(&self) -> Vec<Range<usize>> {
        let state = STATE.lock();
        let mapped = state.arena.iter().flat_map(Arena::mapped);
        mapped
            .map(|range| range.start as usize..range.end as usize)
            .collect()
    }

    /// The `syscall` instructions that take part in what is traced.
    pub fn syscall_sites(&self) -> Vec<SyscallSite> {
        STATE.lock().syscalls.list()
    }

    /// Probes are skipped, and not counted as missed, on the calling thread
    /// from now on: the agent's own.
    pub fn exempt_thread() {
        thread::current().is_exempt.set(true);
        hit::own_thread_is_known();
    }

    /// System calls are not traced, and not counted as missed, on the calling
    /// thread while `body` runs. A thread that it starts is the agent's own, and
    /// has to call [`Engine::exempt_thread`].
    pub fn exempted<T>(body: impl FnOnce() -> T) -> T {
        let thread = thread::current();
        let before = thread.is_exempt.replace(true);
        let result = body();
        thread.is_exempt.set(before);
        result
    }

    /// Runs the enter probes of a system call that the caller is about to make
    /// in the program's place.
    pub fn syscall_made(nr: i64, argument: u64) {
        hit::made(nr, argument);
    }

    /// Runs the exit probes of a system call that was not made here, but that
    /// the calling thread has returned from: execve(2) in a new program.
    pub fn syscall_returned(nr: i64, result: i64) {
        hit::returned(nr, result);
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
        let is_mapped = |addr| {
            let mapped = mapped.as_deref();
            mapped.is_none_or(|mapped| mappings::holding(mapped, addr).is_some())
        };
        let mut state = STATE.lock();
        let mut plans = Vec::new();
        let mut results: Vec<_> = batch.iter().map(|_| Err(Refusal::NoRoom)).collect();
        let mut touched = BTreeSet::new();
        let order = ladder::Order::of(batch);
        for index in order.indices {
            let (Some((point, probe)), Some(result)) = (batch.get(index), results.get_mut(index))
            else {
                continue;
            };
            let addr = point.addr as u64;
            if !is_mapped(addr) {
                *result = Err(Refusal::OutsideText);
                continue;
            }
            let attached = Attached::new(0, *probe, point.kind);
            let inline = attached.inline().filter(|_| point.kind == Kind::Entry);
            let mut planned = Batch {
                work: inline.map(|inline| (addr, inline.clone(), attached.hits())),
                module: &point.module,
                can_step: self.can_step,
                wanted: &order.wanted,
                plans: &mut plans,
            };
            *result = state
                .site_for(addr, point.kind, &mut planned)
                .map(|()| state.add(addr, point.kind, *probe));
            if result.is_ok() {
                touched.insert(addr);
            }
        }
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
        let mut state = STATE.lock();
        let range = range.start as u64..range.end as u64;
        state.forget_sites(&range, self.can_step);
        state.hooks.retain(|_, (addr, _)| !range.contains(addr));
        state.owned.remove_starting_in(&range);
        state.forgotten.forget_range(&range);
        state.syscalls.forget_range(&range);
        table::forget_range(&range);
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

impl State {
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

    /// Brings the text in line with the probes at system calls.
    fn hook_syscalls(&mut self, texts: &[Arc<Text>], can_step: bool) -> Traced {
        let mut traced = Traced::default();
        self.forget_moved();
        let mappings = mappings::own();
        let known = mappings.as_deref().unwrap_or_default();
        let Work { mut new, lacking } = self.syscalls.work(texts, known);
        traced.lacking = lacking;
        let arena = self.arena.get_or_insert_default();
        if !new.is_empty()
            && let Some(mappings) = mappings
        {
            arena.survey(&mappings);
            // A library may have been closed before this call.
            new.retain(|(_, found, _)| mappings::holding(&mappings, found.addr).is_some());
        }
        let mut plans = Vec::new();
        for (text, found, recipe) in new {
            let plan = self
                .syscalls
                .plan(&text, &found, recipe, arena, &mut self.owned, can_step);
            match plan {
                Ok(plan) => plans.extend(plan.map(|plan| (found.addr, plan))),
                Err(Lacking) if traced.lacking.iter().any(|known| Arc::ptr_eq(known, &text)) => {}
                Err(Lacking) => traced.lacking.push(text),
            }
        }
        let own = self.arena.as_ref().filter(|_| plans.len() > FEW_PLANS);
        let own = own.map(|arena| arena.mapped_with(&written_at(&plans)));
        for addr in write_plans_in(&plans, own.unwrap_or_default()).into_keys() {
            self.syscalls.failed(addr, Refusal::NoMemory);
        }
        for is_patched in [true, false] {
            let due = self.syscalls.due(is_patched);
            let changes: Vec<Change> = due.iter().map(|(_, change)| *change).collect();
            // SAFETY: we hold the lock. The planner proved each change to be
            // one instruction's; its trampoline is written.
            let outcomes = unsafe { text::change(&changes, can_step) };
            for ((addr, _), outcome) in due.iter().zip(outcomes) {
                match outcome {
                    Outcome::Done => {
                        traced.has_hooked |= is_patched;
                        self.syscalls.changed(*addr, is_patched);
                    }
                    _ if is_patched => self.syscalls.failed(*addr, Refusal::Patched),
                    // What someone else has changed stays, and so does our
                    // trampoline.
                    _ => {}
                }
            }
        }
        traced
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

    /// Plans whose trampolines call the thunks that fit the published lists, or
    /// jump to blocks, which are written with them.
    fn with_thunks(&mut self, mut plans: Vec<(u64, Plan)>) -> Vec<(u64, Plan)> {
        for (addr, plan) in &mut plans {
            let Some(record) = self.sites.get_mut(addr) else {
                continue;
            };
            let word = code_of(plan).and_then(|code| code.first_chunk_mut());
            if let Some(word) = word {
                record.thunk = record.best_thunk();
                *word = record.thunk.to_le_bytes();
            }
            let arena = self.arena.get_or_insert_default();
            let block = record.make_block(arena);
            if let Some(code) = code_of(plan) {
                record.put_head(code);
            }
            plan.writes.splice(0..0, block);
        }
        plans
    }

    /// Lets trampolines call the thunks that fit, or jump to blocks. One that
    /// cannot be changed still runs what it should: a thunk leaves to the
    /// general one what it does not do itself, and a block to a thunk.
    fn choose_thunks(&mut self, sites: &BTreeSet<u64>, can_step: bool) {
        self.arm_blocks(sites);
        let mut due: Vec<(u64, Change, bool)> = Vec::new();
        for addr in sites {
            let record = self.sites.get(addr).filter(|record| !record.is_idle());
            let Some(record) = record else { continue };
            let (now, then) = (record.thunk, record.best_thunk());
            if now != then && record.trampoline % 8 == 0 {
                let change =
                    Change::new(record.trampoline, &now.to_le_bytes(), &then.to_le_bytes());
                due.push((*addr, change, false));
            }
            due.extend(record.new_head().map(|change| (*addr, change, true)));
        }
        if due.is_empty() {
            return;
        }
        let changes: Vec<Change> = due.iter().map(|(_, change, _)| *change).collect();
        // SAFETY: we hold the lock. Aligned words: an address, which threads load
        // at once, or a whole instruction, of which either does; both thunks do
        // for either list, as does any block, which asks whether it may run.
        let outcomes = unsafe { text::change(&changes, can_step) };
        for ((addr, change, is_head), outcome) in due.iter().zip(outcomes) {
            if let (Outcome::Done, Some(record)) = (outcome, self.sites.get_mut(addr)) {
                match is_head {
                    true => record.blocks.head = change.to,
                    false => record.thunk = record.best_thunk(),
                }
            }
        }
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

/// The trampoline.
fn code_of(plan: &mut Plan) -> Option<&mut [u8]> {
    plan.writes.last_mut().map(|(_, code)| &mut code[..])
}

/// So many plans are written without changing any page's protection.
const FEW_PLANS: usize = 16;

/// Where the trampolines and landings of plans begin.
fn written_at(plans: &[(u64, Plan)]) -> Vec<u64> {
    let writes = plans.iter().flat_map(|(_, plan)| &plan.writes);
    writes.map(|(at, _)| *at).collect()
}

fn write_plans(plans: &[(u64, Plan)]) -> BTreeMap<u64, AttachError> {
    write_plans_in(plans, Vec::new())
}

/// Writes trampolines, landings and jumps in padding; gives what failed. Pages
/// of ours that are `opened` for it take them faster.
fn write_plans_in(plans: &[(u64, Plan)], opened: Vec<Range<u64>>) -> BTreeMap<u64, AttachError> {
    let mut failed = BTreeMap::new();
    if plans.is_empty() {
        return failed;
    }
    let writer = TextWriter::open_own(opened.into_iter());
    for (addr, plan) in plans {
        let padding = plan
            .padding
            .iter()
            .map(|change| (change.addr, &change.to[..change.len]));
        let writes = plan
            .writes
            .iter()
            .map(|(at, code)| (*at, &code[..]))
            .chain(padding);
        for (at, code) in writes {
            // SAFETY: fresh arena bytes, or padding that the planner proved
            // dead; nothing jumps there yet.
            if let Err(error) = unsafe { writer.write(at, code) } {
                failed.insert(*addr, denied(error));
                break;
            }
        }
    }
    drop(writer);
    // Cores may have fetched the old bytes ahead; where this does not work,
    // jumps are still seen after what they lead to.
    let _serialised = sys::sync_cores();
    failed
}

fn denied(error: Errno) -> AttachError {
    AttachError::System {
        what: "write to the process's text",
        error,
    }
}

fn refused(addr: u64, reason: Refusal) -> AttachError {
    AttachError::Refused {
        addr: addr as usize,
        reason,
    }
}

extern "C" fn before_fork() {
    STATE.acquire();
}

extern "C" fn after_fork() {
    // SAFETY: `before_fork` has acquired it on this thread.
    unsafe { STATE.release() };
}

extern "C" fn in_child() {
    // SAFETY: `before_fork` has acquired it on the thread that became us.
    unsafe { STATE.release() };
    leaving::forget();
    shadow::after_fork(thread::current());
}
