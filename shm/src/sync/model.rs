//! Runs code on shared memory under loom: every interleaving of its threads, and
//! every value that each load may see, up to a number of preemptions. It knows
//! no structure; the models are in the tests of those who have one.
//!
//! Memory stays where it is. A test [`share`]s a range of it, and from then on each
//! word in it that is used as an atomic has a twin of loom's. Words outside are
//! core's. What is in no atomic (bytes that are copied one by one) is not seen.
//!
//! A thread has the id of a process of its own ([`thread_id`]) and may be killed
//! before any of its steps ([`spawn_mortal`]). Others learn that as they would from
//! the kernel ([`is_alive`]), and what it wrote before is seen then.
//!
//! [`faults`] shows that a model can fail: it runs it once for each operation
//! whose ordering is more than relaxed, with that one relaxed, and once for each
//! store, with that one left out, and returns those that nobody noticed.
//!
//! loom takes sequentially consistent operations for acquire and release; here
//! there is a fence between any two of one thread, which is a little more than
//! the language promises.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, Location, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

use loom::sync::atomic as twin;
use loom::sync::{Condvar, Mutex};
use loom::thread::{JoinHandle, ThreadId};

/// Most threads of a model, with the first.
const THREADS: usize = 4;
/// The id of the first thread.
const FIRST_ID: i32 = 1000;

/// A word's twin.
#[derive(Clone)]
pub(super) enum Word {
    W32(Rc<twin::AtomicU32>),
    W64(Rc<twin::AtomicU64>),
}

/// What an operation does to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Load,
    Store,
    Change,
    Fence,
    Wake,
}

/// How to go on with an operation.
pub(super) enum Step {
    /// On memory.
    Plain,
    /// On the twin, with this ordering.
    Loom(Word, Ordering),
    /// Not at all: the thread is dead, or the operation is left out.
    Nothing,
}

/// An operation of the code under model: where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Site {
    file: &'static str,
    line: u32,
    column: u32,
    kind: Kind,
}

/// What goes wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Relaxed(Site),
    LeftOut(Site),
}

/// What unwinds a thread that is killed.
struct Killed;
/// What ends a run that met a word for the first time.
struct NewWord;

/// One execution.
#[derive(Default)]
struct World {
    areas: Vec<(usize, usize)>,
    words: HashMap<usize, Word>,
    sleepers: HashMap<usize, Rc<(Mutex<()>, Condvar)>>,
    ids: HashMap<ThreadId, i32>,
    dead: Vec<Rc<twin::AtomicU32>>,
    spawned: i32,
    /// Operations left to threads that will be killed.
    left: HashMap<i32, u32>,
    /// Threads that unwind, or did.
    killed: BTreeSet<i32>,
    /// Threads with a sequentially consistent operation behind them.
    consistent: BTreeSet<i32>,
    time_passes: bool,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    /// Words that some execution used: the range's number, offset and bytes.
    static KNOWN: RefCell<BTreeSet<(usize, usize, usize)>> = const { RefCell::new(BTreeSet::new()) };
    static SITES: RefCell<BTreeMap<Site, bool>> = const { RefCell::new(BTreeMap::new()) };
    static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
}

fn with<R>(act: impl FnOnce(&mut World) -> R) -> Option<R> {
    WORLD.with_borrow_mut(|world| world.as_mut().map(act))
}

impl World {
    fn me(&self) -> i32 {
        let id = loom::thread::current().id();
        self.ids.get(&id).copied().unwrap_or(FIRST_ID)
    }

    fn place(&self, at: usize) -> Option<(usize, usize)> {
        let mut areas = self.areas.iter().enumerate();
        areas.find_map(|(number, &(start, len))| {
            let offset = at.checked_sub(start).filter(|offset| *offset < len)?;
            Some((number, offset))
        })
    }
}

/// Shares `len` bytes at `start` between the threads of this execution. Their
/// contents are what every thread sees first.
pub fn share(start: *mut u8, len: u64) {
    let start = start.addr();
    let number = with(|world| {
        world.areas.push((start, len as usize));
        world.areas.len() - 1
    });
    let known = KNOWN.with_borrow(Clone::clone);
    for (_, offset, bytes) in known.into_iter().filter(|known| Some(known.0) == number) {
        let at = std::ptr::with_exposed_provenance_mut::<u8>(start + offset);
        // SAFETY: a word that an earlier execution used, in memory that the test
        // holds and that has no other thread.
        let word = unsafe {
            match bytes {
                8 => Word::W64(Rc::new(twin::AtomicU64::new(*at.cast()))),
                _ => Word::W32(Rc::new(twin::AtomicU32::new(*at.cast()))),
            }
        };
        with(|world| world.words.insert(start + offset, word));
    }
}

/// What the thread's next operation is.
#[track_caller]
pub(super) fn step(at: usize, bytes: usize, kind: Kind, order: Ordering) -> Step {
    let Some(place) = with(|world| world.place(at)).flatten() else {
        return Step::Plain;
    };
    if !lives_on() {
        return Step::Nothing;
    }
    let Some(word) = with(|world| world.words.get(&at).cloned()).flatten() else {
        KNOWN.with_borrow_mut(|known| known.insert((place.0, place.1, bytes)));
        resume_unwind(Box::new(NewWord));
    };
    match ordered(site(kind), order) {
        None => Step::Nothing,
        Some(SeqCst) => {
            let is_first = with(|world| {
                let me = world.me();
                world.consistent.insert(me)
            });
            if is_first == Some(false) {
                twin::fence(SeqCst);
            }
            let order = match kind {
                Kind::Load => Acquire,
                Kind::Store => Release,
                _ => Ordering::AcqRel,
            };
            Step::Loom(word, order)
        }
        Some(order) => Step::Loom(word, order),
    }
}

#[track_caller]
fn site(kind: Kind) -> Site {
    let here = Location::caller();
    Site {
        file: here.file(),
        line: here.line(),
        column: here.column(),
        kind,
    }
}

/// The ordering that this run gives an operation; `None` if it leaves it out.
fn ordered(site: Site, order: Ordering) -> Option<Ordering> {
    SITES.with_borrow_mut(|sites| sites.insert(site, order != Relaxed));
    match FAULT.get() {
        Some(Fault::Relaxed(at)) if at == site => Some(Relaxed),
        Some(Fault::LeftOut(at)) if at == site => None,
        _ => Some(order),
    }
}

/// Whether the thread is there for one more operation. Unwinds it when it is to
/// be killed now.
fn lives_on() -> bool {
    let now = with(|world| {
        let me = world.me();
        if world.killed.contains(&me) {
            return (false, None);
        }
        let Some(left) = world.left.get_mut(&me) else {
            return (true, None);
        };
        if *left > 0 {
            *left -= 1;
            return (true, None);
        }
        world.killed.insert(me);
        (false, world.dead.get((me - FIRST_ID) as usize).cloned())
    });
    match now {
        Some((_, Some(grave))) => {
            grave.store(1, Release);
            resume_unwind(Box::new(Killed));
        }
        Some((lives, None)) => lives,
        None => true,
    }
}

/// As core's.
#[track_caller]
pub fn fence(order: Ordering) {
    if with(|_| ()).is_none() {
        return core::sync::atomic::fence(order);
    }
    match ordered(site(Kind::Fence), order) {
        Some(Relaxed) | None => {}
        Some(order) => twin::fence(order),
    }
}

/// As core's; to loom, others must run before anything changes.
pub fn spin_loop() {
    match with(|_| ()) {
        Some(()) if lives_on() => loom::thread::yield_now(),
        Some(()) => {}
        None => core::hint::spin_loop(),
    }
}

/// In a model, lets others run; `false` elsewhere.
pub(crate) fn sched_yield() -> bool {
    let modelled = with(|_| ()).is_some();
    if modelled {
        spin_loop();
    }
    modelled
}

/// In a model, the time, which stands still.
pub(crate) fn clock() -> Option<u64> {
    with(|_| 1_000_000_000)
}

/// In a model, the id of the calling thread, which is that of its process.
pub fn thread_id() -> Option<i32> {
    with(|world| world.me())
}

/// In a model, whether the thread runs, or may.
pub(crate) fn is_alive(id: i32) -> Option<bool> {
    let grave = with(|world| {
        let index = usize::try_from(id.wrapping_sub(FIRST_ID)).ok();
        index.and_then(|index| world.dead.get(index).cloned())
    })?;
    // Who is no thread of the model is dead.
    Some(grave.is_some_and(|grave| grave.load(Acquire) == 0))
}

fn sleepers(at: usize) -> Option<Rc<(Mutex<()>, Condvar)>> {
    with(|world| {
        let new = || Rc::new((Mutex::new(()), Condvar::new()));
        Rc::clone(world.sleepers.entry(at).or_insert_with(new))
    })
}

/// Lets waits with a time limit end before anything happens.
pub fn let_time_pass() {
    with(|world| world.time_passes = true);
}

/// In a model, sleeps until woken, also with a time limit, unless time passes:
/// who relies on one is found to be deadlocked.
pub(crate) fn futex_wait(word: &super::AtomicU32, expected: u32, is_timed: bool) -> bool {
    let Some(sleepers) = sleepers(word.as_ptr().addr()).filter(|_| lives_on()) else {
        return false;
    };
    if is_timed && with(|world| world.time_passes) == Some(true) {
        loom::thread::yield_now();
        return true;
    }
    twin::fence(SeqCst);
    let guard = sleepers
        .0
        .lock()
        .unwrap_or_else(|_| unreachable!("no thread panics"));
    if word.load(Relaxed) == expected {
        drop(sleepers.1.wait(guard));
    }
    true
}

/// In a model, wakes one sleeper or all.
#[track_caller]
pub(crate) fn futex_wake(at: usize, count: u32) -> bool {
    let Some(sleepers) = sleepers(at).filter(|_| lives_on()) else {
        return false;
    };
    if ordered(site(Kind::Wake), Relaxed).is_none() {
        return true;
    }
    twin::fence(SeqCst);
    drop(sleepers.0.lock());
    match count {
        1 => sleepers.1.notify_one(),
        _ => sleepers.1.notify_all(),
    }
    true
}

/// A thread of the model; it is another process to the code under model.
pub fn spawn<T: 'static>(body: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
    let number = with(|world| {
        world.spawned += 1;
        FIRST_ID + world.spawned
    });
    loom::thread::spawn(move || {
        let id = loom::thread::current().id();
        with(|world| world.ids.insert(id, number.unwrap_or(FIRST_ID)));
        body()
    })
}

/// A thread that is killed before its operation number `steps`, from 0; `None`
/// from it if so.
pub fn spawn_mortal<T: 'static>(
    steps: u32,
    body: impl FnOnce() -> T + 'static,
) -> JoinHandle<Option<T>> {
    spawn(move || {
        with(|world| {
            let me = world.me();
            world.left.insert(me, steps)
        });
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(value) => {
                with(|world| {
                    let me = world.me();
                    world.left.remove(&me)
                });
                Some(value)
            }
            Err(cause) if cause.is::<Killed>() => None,
            Err(cause) => resume_unwind(cause),
        }
    })
}

/// How far a model goes.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    preemptions: Option<usize>,
    runs: Option<usize>,
}

impl Model {
    /// Every interleaving.
    pub const WHOLE: Model = Model {
        preemptions: None,
        runs: None,
    };

    /// All with at most so many switches away from a thread that could go on.
    pub const fn preempted(preemptions: usize) -> Model {
        Model {
            preemptions: Some(preemptions),
            runs: None,
        }
    }

    /// The first `runs`, about, where all would be too many.
    pub const fn at_most(self, runs: usize) -> Model {
        Model {
            runs: Some(runs),
            ..self
        }
    }

    /// Runs `body` in every way that it can go; how many that were.
    ///
    /// # Panics
    /// When `body` does in one of them, or when its threads wait for each other.
    pub fn check(self, body: impl Fn() + Send + Sync + 'static) -> usize {
        let body = Arc::new(body);
        KNOWN.with_borrow_mut(BTreeSet::clear);
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.run(Arc::clone(&body)))) {
                Ok(runs) => return runs,
                Err(cause) if cause.is::<NewWord>() => {}
                Err(cause) => resume_unwind(cause),
            }
        }
    }

    fn run(self, body: Arc<impl Fn() + Send + Sync + 'static>) -> usize {
        let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut builder = loom::model::Builder::new();
        builder.max_threads = THREADS;
        builder.max_branches = 20_000;
        builder.preemption_bound = self.preemptions;
        builder.max_permutations = self.runs;
        builder.checkpoint_interval = 100;
        let counted = Arc::clone(&runs);
        let ended = End;
        builder.check(move || {
            counted.fetch_add(1, Relaxed);
            let dead = (0..THREADS).map(|_| Rc::new(twin::AtomicU32::new(0)));
            let world = World {
                dead: dead.collect(),
                ..World::default()
            };
            WORLD.with_borrow_mut(|now| *now = Some(world));
            body();
        });
        drop(ended);
        runs.load(Relaxed)
    }

    /// Runs `body` with each of its operations made wrong in turn, and returns
    /// those that went unnoticed, sorted: file, operation, and what was wrong.
    pub fn faults(self, body: impl Fn() + Send + Sync + 'static) -> Faults {
        SITES.with_borrow_mut(BTreeMap::clear);
        let body = Arc::new(body);
        let again = || {
            let body = Arc::clone(&body);
            move || body()
        };
        self.check(again());
        let sites = SITES.with_borrow(Clone::clone);
        let relaxed = sites.iter().filter(|(_, strong)| **strong);
        let relaxed = relaxed.map(|(site, _)| Fault::Relaxed(*site));
        let left_out = sites
            .keys()
            .filter(|site| matches!(site.kind, Kind::Store | Kind::Wake));
        let left_out = left_out.map(|site| Fault::LeftOut(*site));
        let mut faults = Faults::default();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        for fault in relaxed
            .chain(left_out)
            .filter(|fault| fault.site().is_ours())
        {
            FAULT.set(Some(fault));
            let run = catch_unwind(AssertUnwindSafe(|| self.check(again())));
            FAULT.set(None);
            match run {
                Ok(_) => faults.unnoticed.push(fault.to_string()),
                Err(_) => faults.noticed.push(fault.to_string()),
            }
        }
        std::panic::set_hook(hook);
        faults
    }
}

/// Ends the last execution, however it ended.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        drop(WORLD.take());
    }
}

/// What came of making operations wrong.
#[derive(Debug, Default)]
pub struct Faults {
    /// Made some execution fail.
    pub noticed: Vec<String>,
    /// Changed nothing that the model looks at.
    pub unnoticed: Vec<String>,
}

impl Site {
    /// Not part of a test.
    fn is_ours(&self) -> bool {
        !self.file.contains("tests/")
    }
}

impl Fault {
    fn site(&self) -> Site {
        match self {
            Fault::Relaxed(site) | Fault::LeftOut(site) => *site,
        }
    }
}

impl std::fmt::Display for Fault {
    /// The file's name, the line, and what was wrong with it.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self {
            Fault::Relaxed(_) => "relaxed",
            Fault::LeftOut(_) => "left out",
        };
        let Site { file, line, .. } = self.site();
        // Paths are as the workspace sees them, tests run in their crate.
        let text = [file.to_owned(), format!("../{file}")];
        let text = text
            .iter()
            .find_map(|file| std::fs::read_to_string(file).ok());
        let text = text.unwrap_or_default();
        let source = text.lines().nth(line as usize - 1).unwrap_or_default();
        let name = file.rsplit('/').next().unwrap_or(file);
        write!(out, "{name}: {}: {what}", source.trim())
    }
}
