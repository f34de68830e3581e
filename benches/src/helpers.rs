//! What single operations of programs cost, without a hook: programs that do
//! one each, run in a loop in this process, above an empty program. Takes
//! words that rows must contain.

use std::ffi::CString;
use std::hint::black_box;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
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

const RUNS: u32 = 100_000;
const ROUNDS: usize = 15;
const CPUS: u32 = 2;

/// `map[n]` of the programs, from 1.
const MAPS: [(u32, u32, u32, u32); 6] = [
    (BPF_MAP_TYPE_HASH, 4, 8, 1024),
    (BPF_MAP_TYPE_HASH, 8, 8, 1024),
    (BPF_MAP_TYPE_HASH, 20, 8, 1024),
    (BPF_MAP_TYPE_PERCPU_HASH, 4, 8, 1024),
    (BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1),
    (BPF_MAP_TYPE_RINGBUF, 0, 0, 8 << 20),
];

/// Adds 1 to the value of a key in `map[n]`, which is stored first.
fn count(map: u32) -> String {
    format!(
        "*(u64 *)(r10 - 8) = 0\n*(u64 *)(r10 - 16) = 0\n*(u64 *)(r10 - 24) = 7\n\
         r1 = map[{map}]\nr2 = r10\nr2 += -24\ncall 1\nif r0 == 0 goto absent\n\
         r1 = *(u64 *)(r0 + 0)\nr1 += 1\n*(u64 *)(r0 + 0) = r1\nr0 = 0\nexit\n\
         absent:\n*(u64 *)(r10 - 32) = 1\nr1 = map[{map}]\nr2 = r10\nr2 += -24\nr3 = r10\nr3 += -32\n\
         r4 = 0\ncall 2\nr0 = 0\nexit"
    )
}

/// 16 bytes to `map[6]` by `bpf_ringbuf_output`.
fn output(flags: u32) -> String {
    format!(
        "*(u64 *)(r10 - 8) = 1\n*(u64 *)(r10 - 16) = 2\nr1 = map[6]\nr2 = r10\nr2 += -16\n\
         r3 = 16\nr4 = {flags}\ncall 130\nexit"
    )
}

/// The same by `bpf_ringbuf_reserve` and `bpf_ringbuf_submit`.
fn submit(flags: u32) -> String {
    format!(
        "r1 = map[6]\nr2 = 16\nr3 = 0\ncall 131\nif r0 == 0 goto full\n*(u64 *)(r0 + 0) = 1\n\
         *(u64 *)(r0 + 8) = 2\nr1 = r0\nr2 = {flags}\ncall 132\nfull:\nr0 = 0\nexit"
    )
}

/// `len` bytes by helper `id` from where the first argument points.
fn read(id: u32, len: u32) -> String {
    format!("r3 = *(u64 *)(r1 + 112)\nr1 = r10\nr1 += -256\nr2 = {len}\ncall {id}\nexit")
}

fn rows() -> Vec<(&'static str, String)> {
    vec![
        ("empty", "r0 = 0\nexit".into()),
        ("hash ++, 4-byte key", count(1)),
        ("hash ++, 8-byte key", count(2)),
        ("hash ++, 20-byte key", count(3)),
        ("per-CPU hash ++", count(4)),
        ("per-CPU array ++", count(5).replace("= 7", "= 0")),
        ("ring output 16 B, no wake-up", output(1)),
        ("ring output 16 B", output(0)),
        ("ring reserve + submit 16 B, no wake-up", submit(1)),
        ("ring reserve + submit 16 B", submit(0)),
        ("read 16 B of the stack", read(112, 16)),
        ("read 256 B of the stack", read(112, 256)),
        ("read 16 B of the heap", read(112, 16)),
        ("read a string of 13 B of the stack", read(114, 64)),
        ("read a string of 13 B of the heap", read(114, 64)),
        ("pid_tgid", "call 14\nr0 = 0\nexit".into()),
        ("ktime_get_ns", "call 5\nr0 = 0\nexit".into()),
    ]
}

struct Row {
    name: &'static str,
    program: LoadedProgram,
    best: f64,
}

/// Maps, by number, and the programs.
struct World {
    maps: Vec<Arc<Map>>,
    /// Storage of the ring, which is the last of the maps.
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
    fn new(wanted: &[String]) -> Result<World> {
        let mut world = World {
            maps: Vec::new(),
            ring: segment(PAGE)?,
            programs: rows(),
        };
        let fits = |name: &str| wanted.iter().all(|word| name.contains(word.as_str()));
        world
            .programs
            .retain(|(name, _)| *name == "empty" || fits(name));
        for (map_type, key_size, value_size, max_entries) in MAPS {
            let spec = MapSpec {
                map_type,
                key_size,
                value_size,
                max_entries,
                seed: 0x1234_5678_9abc_def0,
                ..MapSpec::default()
            };
            let bytes = Map::storage_size(&spec, CPUS).map_err(|error| anyhow!("{error:?}"))?;
            world.ring = segment(bytes.next_multiple_of(PAGE))?;
            let map = Map::create(spec, world.ring.clone(), CPUS);
            world
                .maps
                .push(Arc::new(map.map_err(|error| anyhow!("{error:?}"))?));
        }
        Ok(world)
    }

    /// Reads all there is in the ring, as far as producers can tell.
    fn drain(&self) -> Result<()> {
        let word = |at| self.ring.u64_at(at).context("a ring");
        word(0)?.store(word(PAGE)?.load(Ordering::Acquire), Ordering::Release);
        Ok(())
    }
}

fn segment(bytes: u64) -> Result<Region> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let path = CString::new(dir.path().join("data").as_os_str().as_bytes())?;
    let (segment, _fd) = Segment::create(&path, bytes)?;
    segment.region(0, bytes).context("a region")
}

/// Nanoseconds of a run.
fn time(env: &ProcessEnv, row: &Row, from: &[u8; 256]) -> f64 {
    let mut regs = PtRegs {
        di: from.as_ptr() as u64,
        ..PtRegs::default()
    };
    let start = Instant::now();
    for _ in 0..RUNS {
        let mut run = RunState::new(env, &raw const regs, 0, 0);
        run.vcpu = 0;
        // SAFETY: `pt_regs` for a kprobe program, a live session, and nobody
        // else runs on its vCPUs.
        black_box(unsafe { row.program.run((&raw mut regs).cast(), &mut run) });
    }
    start.elapsed().as_nanos() as f64 / f64::from(RUNS)
}

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    thread::init();
    clock::init();
    let world = World::new(&wanted)?;
    let env = ProcessEnv::new(segment(u64::from(CPUS) * CLAIM_BYTES)?, segment(PAGE)?);
    let env = env.context("an environment")?;
    // Timed on a thread, whose stack libc has notes of.
    std::thread::scope(|scope| scope.spawn(|| compare(&world, &env)).join())
        .map_err(|_| anyhow!("the thread ended"))?
}

fn compare(world: &World, env: &ProcessEnv) -> Result<()> {
    own_stack::init();
    let mut rows = Vec::new();
    for (id, (name, text)) in (0..).zip(&world.programs) {
        let program = LoadedProgram::load(world, id).context(text.clone())?;
        rows.push(Row {
            name,
            program,
            best: f64::INFINITY,
        });
    }
    let mut text = [0u8; 256];
    text[..12].copy_from_slice(b"twelve chars");
    let heap = Box::new(text);
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let from = if row.name.contains("heap") {
                &*heap
            } else {
                &text
            };
            row.best = row.best.min(time(env, row, from));
            world.drain()?;
        }
    }
    let empty = rows[0].best;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "nanoseconds above an empty program ({empty:.1}); the best of {ROUNDS}"
    )?;
    for row in &rows[1..] {
        writeln!(out, "{:<42}{:>8.1}", row.name, row.best - empty)?;
    }
    Ok(())
}
