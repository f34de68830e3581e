//! Another target writes what it likes to storage that it shares, between
//! operations and during them: nobody crashes, hangs, or touches a byte
//! outside. Each round is a fresh map between two inaccessible pages, and a
//! child that the parent watches, so that a round that fails has a name.
//!
//! `BPFTIME_HOSTILE_SECONDS` is how long each test runs, and
//! `BPFTIME_HOSTILE_SEED` runs the round of that number alone. Rounds of even
//! numbers have no second thread and happen again as they did.

pub mod operations;
mod scribble;

use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bpftime_runtime::maps::{Map, MapSpec, PerfRing};
use bpftime_runtime::session::{Dirs, Laggards, Roster};
use bpftime_runtime::vcpu;
use shm::{Access, Region, Segment};
use uapi::map::*;
use vm::verifier::{FieldKind, MapField, MapFields};

use crate::process::Random;
use crate::segment;
use operations::Target;
use scribble::Scribbler;

const PAGE: u64 = 4096;
/// Operations of a round.
const TURNS: u64 = 200;
/// Processor time after which an operation is taken for endless: some wait a
/// tenth of a second for a lock, and a build for tests is slow.
const MOST_CPU: Duration = Duration::from_secs(2);
/// Time after which a round is: its processors may have much else to do.
const MOST_TIME: Duration = Duration::from_secs(100);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Storage right before an inaccessible page, or right behind one.
pub struct Fenced {
    _segment: Segment,
    pub region: Region,
}

impl Fenced {
    pub fn new(bytes: u64, at_end: bool) -> Fenced {
        /// What counts as aligned: a line.
        const LINE: u64 = 64;
        let room = bytes.next_multiple_of(PAGE);
        let segment = segment::segment(room + 2 * PAGE);
        let whole = segment.region(0, room + 2 * PAGE).unwrap();
        for fence in [0, PAGE + room] {
            let at = whole.at(fence, PAGE).unwrap();
            // SAFETY: a page of our own mapping that nothing refers to.
            let done = unsafe { libc::mprotect(at.cast(), PAGE as usize, libc::PROT_NONE) };
            assert_eq!(done, 0);
        }
        let slack = if at_end { room - bytes } else { 0 };
        let start = PAGE + slack / LINE * LINE;
        let region = segment.region(start, PAGE + room - start).unwrap();
        Fenced {
            region,
            _segment: segment,
        }
    }
}

/// What a child tells its parent: which round and which operation it is in.
struct Progress(Region);

impl Progress {
    fn word(&self, index: u64) -> &std::sync::atomic::AtomicU64 {
        self.0.u64_at(8 * index).unwrap()
    }
}

fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// One round: `target` works while its storage is written to.
fn round(seed: u64, target: &mut dyn Target, storage: &Region, progress: &Progress) {
    let mut random = Random(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let mut scribbler = Scribbler::new(storage.clone(), random.next());
    let mut beside = Scribbler::new(storage.clone(), random.next());
    let done = AtomicBool::new(false);
    // How many operations follow each other undisturbed.
    let calm = 1 + random.below(12);
    std::thread::scope(|scope| {
        if seed % 2 == 1 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    beside.write();
                }
            });
        }
        // Something worth breaking.
        for turn in 0..TURNS {
            if turn > TURNS / 4 && turn % calm == 0 {
                for _ in 0..=random.below(4) {
                    scribbler.write();
                }
            }
            progress.word(1).store(turn, Relaxed);
            let before = cpu_time();
            target.operate(&mut random);
            let took = cpu_time() - before;
            if took > MOST_CPU {
                done.store(true, Relaxed);
                panic!("operation {turn} took {took:?} of processor time");
            }
        }
        done.store(true, Relaxed);
    });
}

/// Runs rounds in a child for as long as tests may take, and judges its end.
#[expect(clippy::print_stdout, reason = "says how much was tried")]
fn rounds(name: &str, share: f64, mut one: impl FnMut(u64, &Progress)) {
    let progress = Progress(segment::segment(PAGE).region(0, PAGE).unwrap());
    let seconds = number("BPFTIME_HOSTILE_SECONDS").map_or(share, |all| all as f64 * share / 10.0);
    let only = number("BPFTIME_HOSTILE_SEED");
    // SAFETY: the child works on its own copies and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        std::panic::set_hook(Box::new(|info| {
            let text = format!("{info}\n");
            // SAFETY: the bytes of the text; the harness catches what is printed.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }));
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let work = || {
            for seed in only.unwrap_or(0).. {
                progress.word(0).store(seed, Relaxed);
                one(seed, &progress);
                if only.is_some() || Instant::now() > until {
                    break;
                }
            }
        };
        let fine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_ok();
        // SAFETY: ends the child without the parent's destructors.
        unsafe { libc::_exit(i32::from(!fine)) };
    }
    let deadline = Instant::now() + Duration::from_secs_f64(seconds) + MOST_TIME;
    let mut status = 0;
    loop {
        // SAFETY: waits for our own child.
        if unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == pid {
            break;
        }
        if Instant::now() > deadline {
            // SAFETY: our own child, which was not waited for yet.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let [seed, turn] = [0, 1].map(|index| progress.word(index).load(Relaxed));
    assert_eq!(status, 0, "{name}: round {seed}, operation {turn}");
    println!("{name}: {} operations", (seed + 1) * TURNS);
}

fn maps(name: &str, share: f64, spec: &MapSpec) {
    let cpus = segment::possible_cpus();
    let bytes = Map::storage_size(spec, cpus).unwrap().max(64);
    rounds(name, share, |seed, progress| {
        let fenced = Fenced::new(bytes, seed / 2 % 2 == 1);
        let map = Map::create(*spec, fenced.region.clone(), cpus).unwrap();
        let mut target = operations::OfMap::new(map, fenced.region.clone());
        round(seed, &mut target, &fenced.region, progress);
    });
}

fn small(map_type: u32, key: u32, value: u32, flags: u32) -> MapSpec {
    segment::spec(map_type, key, value, 24, flags)
}

#[test]
fn hash_tables() {
    for map_type in [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_LRU_HASH,
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
    ] {
        maps(&format!("type {map_type}"), 0.7, &small(map_type, 4, 12, 0));
    }
    let large = segment::spec(BPF_MAP_TYPE_HASH, 8, 8, 20_000, 0);
    maps("many entries", 0.5, &large);
    let large = segment::spec(BPF_MAP_TYPE_LRU_HASH, 8, 8, 5000, 0);
    maps("many entries that go", 0.5, &large);
}

#[test]
fn values_with_locks() {
    for map_type in [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY] {
        let mut spec = small(map_type, 4, 16, 0);
        spec.set_fields(&MapFields {
            list: vec![MapField {
                kind: FieldKind::SpinLock,
                offset: 8,
                size: 4,
            }],
        });
        maps(&format!("type {map_type} with locks"), 0.3, &spec);
    }
}

#[test]
fn tries() {
    let spec = small(BPF_MAP_TYPE_LPM_TRIE, 8, 12, BPF_F_NO_PREALLOC);
    maps("addresses", 0.7, &spec);
    let spec = small(BPF_MAP_TYPE_LPM_TRIE, 260, 8, BPF_F_NO_PREALLOC);
    maps("long keys", 0.5, &spec);
}

#[test]
fn arrays_and_filters() {
    for map_type in [BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY] {
        maps(&format!("type {map_type}"), 0.2, &small(map_type, 4, 12, 0));
    }
    for map_type in [
        BPF_MAP_TYPE_PROG_ARRAY,
        BPF_MAP_TYPE_PERF_EVENT_ARRAY,
        BPF_MAP_TYPE_CGROUP_ARRAY,
    ] {
        maps(&format!("type {map_type}"), 0.2, &small(map_type, 4, 4, 0));
    }
    let filter = small(BPF_MAP_TYPE_BLOOM_FILTER, 0, 12, 0);
    maps("filter", 0.2, &filter);
    let stacks = small(BPF_MAP_TYPE_STACK_TRACE, 4, 80, 0);
    maps("stacks", 0.7, &stacks);
    let places = small(BPF_MAP_TYPE_STACK_TRACE, 4, 96, BPF_F_STACK_BUILD_ID);
    maps("stacks of places", 0.4, &places);
}

#[test]
fn values_of_threads() {
    let spec = MapSpec {
        max_entries: 0,
        btf_key_type_id: 1,
        btf_value_type_id: 2,
        ..small(BPF_MAP_TYPE_TASK_STORAGE, 4, 16, BPF_F_NO_PREALLOC)
    };
    maps("values of threads", 0.7, &spec);
}

#[test]
fn queues() {
    for map_type in [BPF_MAP_TYPE_QUEUE, BPF_MAP_TYPE_STACK] {
        maps(&format!("type {map_type}"), 0.7, &small(map_type, 0, 12, 0));
    }
}

#[test]
fn rings() {
    for map_type in [BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_USER_RINGBUF] {
        let spec = segment::spec(map_type, 0, 0, 4096, 0);
        maps(&format!("type {map_type}"), 1.0, &spec);
    }
}

#[test]
fn maps_of_maps() {
    let inner = small(BPF_MAP_TYPE_ARRAY, 4, 8, 0);
    for map_type in [BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS] {
        let spec = MapSpec {
            inner: inner.as_template().unwrap(),
            ..small(map_type, 4, 4, 0)
        };
        maps(&format!("type {map_type}"), 0.4, &spec);
    }
}

/// Rounds of what is made over storage of `bytes`, on pages of their own.
fn others(name: &str, bytes: u64, make: impl Fn(Region) -> Box<dyn Target>) {
    rounds(name, 0.5, |seed, progress| {
        let fenced = Fenced::new(bytes, false);
        let storage = fenced.region.sub(0, bytes).unwrap();
        let mut target = make(storage.clone());
        round(seed, target.as_mut(), &storage, progress);
    });
}

#[test]
fn perf_rings() {
    for pages in [1, 8] {
        others("perf ring", PerfRing::storage_size(pages), |storage| {
            Box::new(operations::OfPerfRing(PerfRing::create(storage, 1)))
        });
    }
}

#[test]
fn claims_of_processors() {
    let bytes = u64::from(segment::possible_cpus()) * vcpu::CLAIM_BYTES;
    others("claims", bytes, |storage| {
        Box::new(operations::OfVcpus(vcpu::Vcpus::new(storage).unwrap()))
    });
}

#[test]
fn rosters() {
    let directory = tempfile::tempdir().unwrap();
    let dirs = Dirs {
        state: directory.path().join("state"),
        sessions: directory.path().join("sessions"),
    };
    let (file, path) = Roster::file(&dirs).unwrap();
    let whole = Segment::of_file(file.as_raw_fd(), Access::ReadWrite).unwrap();
    rounds("roster", 0.7, |seed, progress| {
        // Zeros are an empty roster, and its first word says which layout.
        let storage = whole.region(0, whole.len()).unwrap();
        storage.write(0, &vec![0; storage.len() as usize]).unwrap();
        let roster = Roster::of_file(file.as_raw_fd(), &path).unwrap();
        let mut target = operations::OfRoster(roster, Laggards::default());
        // The first page and a few slots, which is where things happen.
        let slots = storage.sub(0, 4 * PAGE).unwrap();
        round(seed, &mut target, &slots, progress);
    });
}
