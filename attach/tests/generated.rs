//! Functions by chance, with probes at instructions by chance: each leaves what
//! it left before, and each probe is hit as often as its instruction runs.

mod common;
#[path = "common/generated.rs"]
mod generated;
#[path = "common/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_int, c_void};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bpftime_attach::{AttachError, Backend, Engine, HookId, Kind, Needs, Point, Probe};
use common::{Recorder, module_of};
use generated::Chance;
use image::Image;

/// Words that [`generated`] calls with, and gives.
type Registers = [u64; 20];
const FLAGS: usize = 15;
const TRAP: u64 = 0x100;
/// What each function is called with.
const INPUTS: u64 = 4;

/// Generated functions, loaded.
struct Library {
    seed: u64,
    call: unsafe extern "C" fn(usize, *mut Registers),
    functions: Vec<usize>,
    image: Image,
}

impl Library {
    fn new(seed: u64, count: usize) -> Library {
        let directory = tempfile::tempdir().expect("a directory");
        let (source, output) = (directory.path().join("g.s"), directory.path().join("g.so"));
        std::fs::write(&source, generated::assembly(seed, count)).expect("a file");
        let mut compiler = Command::new("gcc");
        compiler.args(["-shared", "-o"]).arg(&output).arg(&source);
        assert!(
            compiler.status().expect("gcc runs").success(),
            "seed {seed}"
        );
        let path = CString::new(output.as_os_str().as_encoded_bytes()).expect("a path");
        // SAFETY: there are no constructors in it.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        let call = address(handle, c"generated_call");
        let pointers = address(handle, c"generated_pointers") as *const usize;
        // SAFETY: there are `count` of them.
        let functions = unsafe { std::slice::from_raw_parts(pointers, count) };
        Library {
            seed,
            // SAFETY: that is its type.
            call: unsafe {
                std::mem::transmute::<usize, unsafe extern "C" fn(usize, *mut Registers)>(call)
            },
            functions: functions.to_vec(),
            image: image::of_loaded(functions[0], module_of(functions[0])),
        }
    }

    /// What a function leaves.
    fn left_by(&self, function: usize, input: u64, flags: u64) -> Registers {
        let mut chance = Chance(input);
        let mut registers = [(); 20].map(|()| chance.next());
        registers[FLAGS] = 2 | flags | input & 0x8d5;
        // SAFETY: a generated function, which ends, and room for its registers.
        unsafe { (self.call)(function, &raw mut registers) };
        registers
    }

    /// What all leave.
    fn left(&self, flags: u64) -> Vec<Registers> {
        let inputs = self
            .functions
            .iter()
            .flat_map(|f| (0..INPUTS).map(|input| (*f, input)));
        inputs
            .map(|(f, input)| self.left_by(f, input, flags))
            .collect()
    }

    fn check(&self, expected: &[Registers], when: &str) {
        for (n, (left, expected)) in self.left(0).iter().zip(expected).enumerate() {
            let function = self.functions[n / INPUTS as usize];
            assert_eq!(
                left,
                expected,
                "seed {}, function {} at {function:x}, input {}, {when}",
                self.seed,
                n / INPUTS as usize,
                n as u64 % INPUTS
            );
        }
    }

    /// How often each instruction runs in [`Library::left`].
    fn runs(&self) -> BTreeMap<usize, u64> {
        let start = self.functions[0];
        START.store(start, Ordering::Relaxed);
        RUNS.iter()
            .for_each(|count| count.store(0, Ordering::Relaxed));
        // SAFETY: an all-zero action is valid, the handler takes what it is given.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_step as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut());
        }
        self.left(TRAP);
        let counts = RUNS.iter().enumerate();
        counts
            .map(|(at, count)| (start + at, u64::from(count.load(Ordering::Relaxed))))
            .filter(|(_, count)| *count != 0)
            .collect()
    }
}

fn address(handle: *mut c_void, name: &CStr) -> usize {
    // SAFETY: the handle is open.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) } as usize;
    assert_ne!(address, 0, "{name:?}");
    address
}

static START: AtomicUsize = AtomicUsize::new(0);
static RUNS: [AtomicU32; 1 << 18] = [const { AtomicU32::new(0) }; 1 << 18];
static LAST: AtomicUsize = AtomicUsize::new(0);

/// Counts the instruction that is next.
unsafe extern "C" fn on_step(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a context.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let ip = context.uc_mcontext.gregs[libc::REG_RIP as usize].cast_unsigned() as usize;
    // A repeated instruction is one hit here, though the kernel counts each turn.
    let repeated = LAST.swap(ip, Ordering::Relaxed) == ip;
    let count = RUNS.get(ip.wrapping_sub(START.load(Ordering::Relaxed)));
    if let Some(count) = count.filter(|_| !repeated) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn point(addr: usize, kind: Kind) -> Point {
    let module = module_of(addr);
    Point { addr, kind, module }
}

/// Where probes are, in this round.
fn chosen(library: &Library, chance: &mut Chance, round: usize) -> Vec<(usize, Kind)> {
    let all = || {
        library
            .image
            .functions
            .iter()
            .flat_map(|f| library.image.instructions_of(f))
    };
    let own = |addr: &usize| *addr >= library.functions[0];
    let entries = library.functions.iter().copied();
    match round % 5 {
        0 => entries.map(|addr| (addr, Kind::Entry)).collect(),
        1 => entries
            .flat_map(|addr| [(addr, Kind::Return), (addr, Kind::Entry)])
            .collect(),
        2 => all().filter(own).map(|addr| (addr, Kind::Entry)).collect(),
        3 => all()
            .filter(|addr| own(addr) && chance.below(3) == 0)
            .map(|addr| (addr, Kind::Entry))
            .collect(),
        _ => {
            let some = all()
                .filter(|addr| own(addr) && chance.below(12) == 0)
                .map(|addr| (addr, Kind::Entry));
            let mut some: Vec<_> = some.collect();
            some.extend(entries.map(|addr| (addr, Kind::Session)));
            some
        }
    }
}

/// One library, with probes that come and go.
fn check(seed: u64, count: usize, rounds: usize) {
    let library = Library::new(seed, count);
    let engine = Engine::new().expect("an engine");
    let expected = library.left(0);
    let runs = library.runs();
    library.check(&expected, "stepped before");
    let mut chance = Chance(seed);
    for round in 0..rounds {
        let points = chosen(&library, &mut chance, round);
        let recorders: Vec<_> = points.iter().map(|_| Recorder::leaked()).collect();
        let probe = |recorder: &'static Recorder| match round / 5 % 3 {
            0 => recorder.probe(),
            1 => recorder.light_probe(Needs::LITTLE),
            _ => recorder.light_probe(Needs::VECTORS),
        };
        let batch: Vec<_> = points
            .iter()
            .zip(&recorders)
            .map(|((addr, kind), r)| (point(*addr, *kind), probe(r)))
            .collect();
        let results = engine.attach(&batch);
        let when = format!("round {round} attached");
        library.check(&expected, &when);
        let mut probed = 0;
        for ((result, (addr, kind)), recorder) in results.iter().zip(&points).zip(&recorders) {
            match result {
                Ok(_) => probed += 1,
                Err(AttachError::Refused { .. }) => continue,
                Err(other) => panic!("seed {seed}: {other}"),
            }
            let sides = if *kind == Kind::Session { 2 } else { 1 };
            let runs = sides * runs.get(addr).copied().unwrap_or(0);
            assert_eq!(
                (recorder.hits(), recorder.missed()),
                (runs, 0),
                "seed {seed}, {when}, {kind:?} at {addr:x}"
            );
        }
        assert!(
            probed * 100 >= points.len() * 75,
            "seed {seed}, {when}: {probed} of {}",
            points.len()
        );
        // Half of them first: what they lean on stays.
        let ids: Vec<HookId> = results.into_iter().filter_map(Result::ok).collect();
        let (one, other): (Vec<HookId>, Vec<HookId>) =
            ids.iter().partition(|_| chance.below(2) == 0);
        engine.detach(&one);
        library.check(&expected, &format!("round {round} half detached"));
        engine.detach(&other);
        library.check(&expected, &format!("round {round} detached"));
        for function in &library.image.functions {
            for (addr, bytes) in library.image.code(function) {
                assert_eq!(
                    common::text(addr, bytes.len()),
                    bytes,
                    "seed {seed}, {when}, {addr:x}"
                );
            }
        }
    }
    assert!(engine.sites().is_empty());
}

fn is_long() -> bool {
    std::env::var_os("TORTURE_LONG").is_some()
}

/// What is counted and stepped is the process's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn functions_by_chance_do_what_they_did() {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let first = std::env::var("TORTURE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = if is_long() { 40 } else { 2 };
    for seed in first.unwrap_or(1)..first.unwrap_or(1) + seeds {
        check(seed, 120, 15);
    }
}

#[test]
fn sites_that_made_room_for_others_are_used_again() {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let library = Library::new(9001, 60);
    let engine = Engine::new().expect("an engine");
    let expected = library.left(0);
    let functions = library.image.functions.iter();
    let all: Vec<usize> = functions
        .flat_map(|f| library.image.instructions_of(f))
        .filter(|addr| *addr >= library.functions[0])
        .collect();
    let probe = Recorder::leaked().light_probe(Needs::LITTLE);
    // Neighbours do not all fit beside each other.
    let mut mapped = Vec::new();
    for round in 0..30 {
        let some = all.iter().skip(round % 3).step_by(3);
        let batch: Vec<_> = some
            .map(|addr| (point(*addr, Kind::Entry), probe))
            .collect();
        let attached = engine.attach(&batch).into_iter().filter_map(Result::ok);
        let ids: Vec<HookId> = attached.collect();
        assert!(ids.len() * 100 >= batch.len() * 90, "{}", ids.len());
        library.check(&expected, &format!("round {round}"));
        engine.detach(&ids);
        mapped.push(belongings().3);
    }
    assert!(mapped[29] <= mapped[8] + 3, "{mapped:?}");
}

/// What a process has that others can see: text of files, fds, what it does
/// with signals, and how much text it made.
fn belongings() -> (Vec<String>, usize, Vec<String>, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let of_files = maps.lines().filter(|line| line.contains('/'));
    let fds = std::fs::read_dir("/proc/self/fd").expect("own fds").count();
    let status = std::fs::read_to_string("/proc/self/status").expect("own status");
    let signals = status.lines().filter(|line| {
        ["SigBlk", "SigIgn", "SigCgt"]
            .iter()
            .any(|name| line.starts_with(name))
    });
    let own = maps
        .lines()
        .filter(|line| line.contains("x") && !line.contains('/'))
        .count();
    (
        of_files.map(str::to_owned).collect(),
        fds,
        signals.map(str::to_owned).collect(),
        own,
    )
}

/// Batches of probes that are on.
struct Toggling<'a> {
    engine: &'a Engine,
    points: Vec<(usize, Kind)>,
    probes: [Probe; 3],
    on: Vec<Vec<HookId>>,
}

impl Toggling<'_> {
    /// Attaches some, or detaches some that were.
    fn turn(&mut self, chance: &mut Chance) {
        if self.on.len() > chance.below(8) {
            let off = chance.below(self.on.len());
            return self.engine.detach(&self.on.swap_remove(off));
        }
        let probe = chance.one_of(&self.probes);
        let from = chance.below(self.points.len());
        let step = 1 + chance.below(9);
        let some = self.points[from..]
            .iter()
            .step_by(step)
            .take(1 + chance.below(600));
        let batch: Vec<_> = some
            .map(|(addr, kind)| (point(*addr, *kind), probe))
            .collect();
        self.on.push(
            self.engine
                .attach(&batch)
                .into_iter()
                .filter_map(Result::ok)
                .collect(),
        );
    }
}

#[test]
fn a_thousand_functions_in_eight_threads_while_probes_come_and_go() {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let library = Library::new(7001, 1000);
    let engine = Engine::new().expect("an engine");
    let expected = library.left(0);
    let recorder = Recorder::leaked();
    let mut chance = Chance(3);
    let mut toggling = Toggling {
        engine: &engine,
        points: (1..5)
            .flat_map(|round| {
                if round == 2 {
                    Vec::new()
                } else {
                    chosen(&library, &mut chance, round)
                }
            })
            .collect(),
        // They count only: the last registers would be anybody's.
        probes: [
            recorder.light_probe(Needs::EVERYTHING),
            recorder.light_probe(Needs::LITTLE),
            recorder.light_probe(Needs::VECTORS),
        ],
        on: Vec::new(),
    };
    // Sites stay for ever: make them once, all that fit beside each other.
    let all: Vec<_> = toggling
        .points
        .iter()
        .map(|(addr, kind)| (point(*addr, *kind), toggling.probes[0]))
        .collect();
    let ids: Vec<HookId> = engine
        .attach(&all)
        .into_iter()
        .filter_map(Result::ok)
        .collect();
    engine.detach(&ids);
    let (files, fds, signals, own) = belongings();
    let (done, calls) = (AtomicBool::new(false), AtomicU64::new(0));
    let time = Duration::from_secs(if is_long() { 300 } else { 6 });
    let deadline = Instant::now() + time;
    let mut turns = 0;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (library, expected, done, calls) = (&library, &expected, &done, &calls);
            scope.spawn(move || {
                let mut chance = Chance(thread);
                while !done.load(Ordering::Relaxed) {
                    let n = chance.below(expected.len());
                    let function = library.functions[n / INPUTS as usize];
                    let left = library.left_by(function, n as u64 % INPUTS, 0);
                    if left != expected[n] {
                        done.store(true, Ordering::Relaxed);
                        assert_eq!(
                            left,
                            expected[n],
                            "function {} at {function:x}",
                            n / INPUTS as usize
                        );
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while (Instant::now() < deadline || turns < 20) && !done.load(Ordering::Relaxed) {
            toggling.turn(&mut chance);
            turns += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    for ids in &toggling.on {
        engine.detach(ids);
    }
    let after = belongings();
    assert_eq!((after.0, after.1, after.2), (files, fds, signals));
    assert!(after.3 * 2 <= own * 3, "{own} mappings became {}", after.3);
    assert!(engine.sites().is_empty());
    let (hits, calls) = (recorder.hits(), calls.load(Ordering::Relaxed));
    assert!(
        hits > 1000 && calls > 10_000,
        "{hits} hits, {calls} calls, {turns} turns"
    );
    library.check(&expected, "detached");
    assert_eq!(recorder.hits(), hits, "detached");
}
