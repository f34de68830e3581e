//! What operations of programs cost on maps and the like, beside the kernel:
//! programs that do one thing a hundred times, above one that does nothing a
//! hundred times. Takes words that rows must contain.

mod hash;
mod kernel;
mod tool;

use std::ffi::CString;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use runtime::barrier;
use runtime::clock;
use runtime::maps::{Map, MapSpec};
use runtime::own_stack;
use runtime::program::{LoadedProgram, Objects};
use runtime::run::{ProcessEnv, RunState};
use runtime::thread;
use runtime::vcpu::CLAIM_BYTES;
use shm::{PAGE, Region, Segment};
use uapi::PtRegs;
use uapi::map::*;
use uapi::prog::BPF_PROG_TYPE_KPROBE;
use vm::ProgramSpec;
use vm::asm::assemble;

use kernel::{KernelMap, KernelProgram};

/// Operations in a run of a program.
const TURNS: u32 = 100;
const RUNS: u32 = 1000;
const ROUNDS: usize = 21;
const CPUS: u32 = 2;

/// `map[n]` of the programs, from 1.
const MAPS: [(u32, u32, u32, u32); 9] = [
    (BPF_MAP_TYPE_HASH, 4, 8, 1024),
    (BPF_MAP_TYPE_HASH, 8, 8, 1024),
    (BPF_MAP_TYPE_HASH, 20, 8, 1024),
    (BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 1024),
    (BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1),
    (BPF_MAP_TYPE_ARRAY, 4, 8, 16),
    (BPF_MAP_TYPE_LRU_HASH, 4, 8, 1024),
    (BPF_MAP_TYPE_RINGBUF, 0, 0, 8 << 20),
    (BPF_MAP_TYPE_HASH, 8, 64, 1024),
];
/// Which of them are the ring and the one of large values.
const RING: u32 = 8;
const LARGE: u32 = 9;

/// Does `turn` a hundred times; it may use all registers but r6.
fn repeated(turn: &str) -> String {
    format!("r6 = {TURNS}\nagain:\n{turn}\nr6 += -1\nif r6 != 0 goto again\nr0 = 0\nexit")
}

/// Looks key 7 up in `map[n]` and does `found` with its value in r0.
fn with_value(map: u32, found: &str) -> String {
    format!(
        "*(u64 *)(r10 - 8) = 0\n*(u64 *)(r10 - 16) = 0\n*(u64 *)(r10 - 24) = 7\n\
         r1 = map[{map}]\nr2 = r10\nr2 += -24\ncall 1\nif r0 == 0 goto absent\n\
         {found}\ngoto next\n\
         absent:\n*(u64 *)(r10 - 32) = 1\nr1 = map[{map}]\nr2 = r10\nr2 += -24\nr3 = r10\nr3 += -32\n\
         r4 = 0\ncall 2\nnext:"
    )
}

/// Adds 1 to the value of a key, which is stored first.
fn count(map: u32) -> String {
    with_value(map, "r1 = *(u64 *)(r0 + 0)\nr1 += 1\n*(u64 *)(r0 + 0) = r1")
}

/// The same by an atomic instruction.
fn count_atomically(map: u32) -> String {
    with_value(map, "r1 = 1\nlock *(u64 *)(r0 + 0) += r1")
}

/// 16 bytes to the ring by `bpf_ringbuf_output`.
fn output(flags: u32) -> String {
    format!(
        "*(u64 *)(r10 - 8) = 1\n*(u64 *)(r10 - 16) = 2\nr1 = map[8]\nr2 = r10\nr2 += -16\n\
         r3 = 16\nr4 = {flags}\ncall 130"
    )
}

/// The same by `bpf_ringbuf_reserve` and `bpf_ringbuf_submit`.
fn submit(flags: u32) -> String {
    format!(
        "r1 = map[8]\nr2 = 16\nr3 = 0\ncall 131\nif r0 == 0 goto full\n*(u64 *)(r0 + 0) = 1\n\
         *(u64 *)(r0 + 8) = 2\nr1 = r0\nr2 = {flags}\ncall 132\nfull:"
    )
}

/// `len` bytes by helper `id` from `address`.
fn read(id: u32, len: u32, address: u64) -> String {
    format!("r3 = {address:#x} ll\nr1 = r10\nr1 += -256\nr2 = {len}\ncall {id}")
}

/// The rows; `stack` and `heap` are addresses of text there.
fn rows(stack: u64, heap: u64) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("nothing", String::new()),
        ("array lookup + atomic add", count_atomically(6)),
        ("per-CPU array ++", count(5).replace("= 7", "= 0")),
        ("hash lookup + add, 4-byte key", count(1)),
        ("hash lookup + add, 8-byte key", count(2)),
        ("hash lookup + add, 20-byte key", count(3)),
        ("per-CPU hash ++", count(4)),
        ("LRU hash ++", count(7)),
        ("ring output 16 B, no wake-up", output(1)),
        ("ring output 16 B", output(0)),
        ("ring reserve + submit 16 B, no wake-up", submit(1)),
        ("ring reserve + submit 16 B", submit(0)),
        ("read 16 B of the stack", read(112, 16, stack)),
        ("read 256 B of the stack", read(112, 256, stack)),
        ("read 16 B of the heap", read(112, 16, heap)),
        ("read a string of 13 B of the stack", read(114, 64, stack)),
        ("pid_tgid", "call 14".into()),
        ("ktime_get_ns", "call 5".into()),
    ];
    rows.extend(hash::rows(LARGE));
    rows
}

struct Row {
    name: &'static str,
    program: LoadedProgram,
    /// None where the kernel may not be asked, or does not let it.
    theirs: Option<KernelProgram>,
    ours_ns: Vec<f64>,
    theirs_ns: Vec<f64>,
}

/// Maps, by number, and the programs.
struct World {
    maps: Vec<Arc<Map>>,
    theirs: Vec<KernelMap>,
    /// Storage of the ring.
    ring: Region,
    programs: Vec<(&'static str, String)>,
}

impl Objects for World {
    fn map(&self, id: u32) -> Option<Arc<Map>> {
        self.maps.get((id as usize).checked_sub(1)?).cloned()
    }

    fn program(&self, id: u32) -> Option<ProgramSpec> {
        let (_, text) = self.programs.get(id as usize)?;
        Some(ProgramSpec {
            prog_type: BPF_PROG_TYPE_KPROBE,
            gpl: true,
            insns: assemble(text).ok()?,
            ..ProgramSpec::default()
        })
    }
}

impl World {
    fn new(wanted: &[String], stack: u64, heap: u64) -> Result<World> {
        let mut world = World {
            maps: Vec::new(),
            theirs: Vec::new(),
            ring: segment(PAGE)?,
            programs: rows(stack, heap),
        };
        for (_, text) in &mut world.programs {
            *text = repeated(text);
        }
        let fits = |name: &str| wanted.iter().all(|word| name.contains(word.as_str()));
        world
            .programs
            .retain(|(name, _)| *name == "nothing" || fits(name));
        for (map_type, key_size, value_size, max_entries) in MAPS {
            let spec = MapSpec {
                map_type,
                key_size,
                value_size,
                max_entries,
                seed: 0x1234_5678_9abc_def0,
                ..MapSpec::default()
            };
            // None where the kernel may not be asked.
            world.theirs.extend(KernelMap::create(&spec).ok());
            let bytes = Map::storage_size(&spec, CPUS).map_err(|error| anyhow!("{error:?}"))?;
            let storage = segment(bytes.next_multiple_of(PAGE))?;
            if map_type == BPF_MAP_TYPE_RINGBUF {
                world.ring = storage.clone();
            }
            let map = Map::create(spec, storage, CPUS);
            world
                .maps
                .push(Arc::new(map.map_err(|error| anyhow!("{error:?}"))?));
        }
        Ok(world)
    }

    /// Reads all there is in the rings, as far as producers can tell.
    fn drain(&self) -> Result<()> {
        let word = |at| self.ring.u64_at(at).context("a ring");
        word(0)?.store(word(PAGE)?.load(Ordering::Acquire), Ordering::Release);
        let theirs = self.theirs.get(RING as usize - 1);
        theirs.map_or(Ok(()), KernelMap::drain)
    }
}

fn segment(bytes: u64) -> Result<Region> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let path = CString::new(dir.path().join("data").as_os_str().as_bytes())?;
    let (segment, _fd) = Segment::create(&path, bytes)?;
    segment.region(0, bytes).context("a region")
}

/// Nanoseconds of clock_gettime(3): what `bpf_ktime_get_ns` is to be measured by.
fn clock_gettime() -> f64 {
    let mut least = f64::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..RUNS * TURNS {
            // SAFETY: all zeros is a time, and libc writes one.
            unsafe {
                let mut time: libc::timespec = std::mem::zeroed();
                libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
                black_box(time);
            }
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(RUNS * TURNS));
    }
    least
}

/// Nanoseconds of a run.
fn time(env: &ProcessEnv, program: &LoadedProgram) -> f64 {
    let mut regs = PtRegs::default();
    let start = Instant::now();
    for _ in 0..RUNS {
        let mut run = RunState::new(env, &raw const regs, 0, 0);
        run.vcpu = 0;
        // SAFETY: `pt_regs` for a kprobe program, a live session, and nobody
        // else runs on its vCPUs.
        black_box(unsafe { program.run((&raw mut regs).cast(), &mut run) });
    }
    start.elapsed().as_nanos() as f64 / f64::from(RUNS)
}

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    thread::init();
    clock::init();
    barrier::register();
    let env = ProcessEnv::new(segment(u64::from(CPUS) * CLAIM_BYTES)?, segment(PAGE)?);
    let env = env.context("an environment")?;
    // Timed on a thread, whose stack libc has notes of.
    std::thread::scope(|scope| scope.spawn(|| compare(&wanted, &env)).join())
        .map_err(|_| anyhow!("the thread ended"))??;
    match wanted.is_empty()
        || wanted
            .iter()
            .any(|word| tool::NAMES.contains(&word.as_str()))
    {
        true => tool::compare(&wanted),
        false => Ok(()),
    }
}

fn compare(wanted: &[String], env: &ProcessEnv) -> Result<()> {
    own_stack::init();
    let mut text = [0u8; 256];
    text[..12].copy_from_slice(b"twelve chars");
    let heap = Box::new(black_box(text));
    let address = |text: &[u8; 256]| black_box(text).as_ptr() as u64;
    let world = World::new(wanted, address(&text), address(&heap))?;
    let mut rows = Vec::new();
    for (id, (name, text)) in (0..).zip(&world.programs) {
        rows.push(Row {
            name,
            program: LoadedProgram::load(&world, id).context(text.clone())?,
            theirs: KernelProgram::load(&assemble(text)?, &world.theirs).ok(),
            ours_ns: Vec::new(),
            theirs_ns: Vec::new(),
        });
    }
    for _ in 0..ROUNDS {
        for row in &mut rows {
            world.drain()?;
            row.ours_ns.push(time(env, &row.program));
            if let Some(theirs) = &row.theirs {
                row.theirs_ns.push(theirs.time(RUNS)?);
            }
        }
    }
    print(&rows)?;
    if let Some(row) = rows.iter().find(|row| row.name == hash::CROWD) {
        hash::print(&|processes| crowd(env, row, processes))?;
    }
    if rows.iter().any(|row| row.name == "ktime_get_ns") {
        writeln!(
            std::io::stdout(),
            "{:<42}{:>10.1}",
            "clock_gettime(3)",
            clock_gettime()
        )?;
    }
    Ok(())
}

/// Nanoseconds for each operation of so many processes, least of some times.
fn crowd(env: &ProcessEnv, row: &Row, processes: u32) -> Result<(f64, Option<f64>)> {
    /// Runs of each process: a million operations.
    const RUNS: u32 = 10_000;
    const TIMES: u32 = 5;
    let (mut ours, mut theirs) = (f64::MAX, None);
    let each = |ns: f64| ns / f64::from(processes * RUNS * TURNS);
    for _ in 0..TIMES {
        let many = || {
            (0..RUNS / self::RUNS).for_each(|_| _ = time(env, &row.program));
            Ok(())
        };
        let ns = hash::in_processes(processes, &many)?;
        ours = each(ns).min(ours);
        if let Some(program) = &row.theirs {
            let many = || program.time(RUNS).map(drop);
            let ns = each(hash::in_processes(processes, &many)?);
            theirs = Some(theirs.map_or(ns, |least: f64| least.min(ns)));
        }
    }
    Ok((ours, theirs))
}

/// On a loaded machine the others were interrupted.
fn least(samples: &[f64]) -> Option<f64> {
    samples.iter().copied().min_by(f64::total_cmp)
}

fn print(rows: &[Row]) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(
        out,
        "nanoseconds for each operation (the least of {ROUNDS} times)\n"
    )?;
    writeln!(out, "{:<42}{:>10}{:>10}", "operation", "bpftime", "kernel")?;
    let mut nothing = None;
    for row in rows {
        let ours = least(&row.ours_ns).context("a sample")?;
        let theirs = least(&row.theirs_ns);
        let (ours_nothing, theirs_nothing) = *nothing.get_or_insert((ours, theirs));
        if row.name == "nothing" {
            continue;
        }
        let each = |all: f64, nothing: f64| (all - nothing) / f64::from(TURNS);
        write!(out, "{:<42}{:>10.1}", row.name, each(ours, ours_nothing))?;
        match theirs.zip(theirs_nothing) {
            Some((all, nothing)) => writeln!(out, "{:>10.1}", each(all, nothing))?,
            None => writeln!(out, "{:>10}", "-")?,
        }
    }
    Ok(())
}
