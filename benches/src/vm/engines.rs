//! Everything that can run a program, behind one type.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use runtime::program::linker;
use vm::interp::Interpreter;
use vm::jit::{CompiledProgram, Optimisations};
use vm::{Facts, ProgramSpec, VerifiedProgram};

use crate::kernel;
use crate::native;
use crate::object::Program;
use crate::programs::Row;
use crate::ubpf::Ubpf;
use crate::world::World;

/// An engine, in the order of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    Native,
    Jit,
    Interpreter,
    Rbpf,
    RbpfInterpreter,
    Ubpf,
    Kernel,
}

impl Engine {
    /// Those that run in this process.
    pub const HERE: [Engine; 6] = [
        Engine::Native,
        Engine::Jit,
        Engine::Interpreter,
        Engine::Rbpf,
        Engine::RbpfInterpreter,
        Engine::Ubpf,
    ];

    /// All of them.
    pub const ALL: [Engine; 7] = [
        Engine::Native,
        Engine::Jit,
        Engine::Interpreter,
        Engine::Rbpf,
        Engine::RbpfInterpreter,
        Engine::Ubpf,
        Engine::Kernel,
    ];

    /// Whether it must be able to run every program.
    pub fn is_ours(self) -> bool {
        matches!(self, Engine::Native | Engine::Jit | Engine::Interpreter)
    }

    /// Name in the table and in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Native => "native",
            Engine::Jit => "jit",
            Engine::Interpreter => "interp",
            Engine::Rbpf => "rbpf",
            Engine::RbpfInterpreter => "rbpf-int",
            Engine::Ubpf => "ubpf",
            Engine::Kernel => "kernel",
        }
    }
}

/// A program in an engine, ready to run.
pub struct Subject {
    /// Which engine.
    pub engine: Engine,
    /// Runs so many times; the last r0.
    run: Box<dyn FnMut(u64) -> u64>,
    /// What it touches.
    world: Box<World>,
}

impl Subject {
    /// Runs `times` times; the last r0.
    pub fn run(&mut self, times: u64) -> u64 {
        (self.run)(times)
    }

    /// The memory after all runs so far.
    pub fn memory(&self) -> &[u8] {
        self.world.memory()
    }

    /// Whether its first run returns `r0` and leaves `memory`. The kernel
    /// returns the low half of r0, and memory is not looked for there.
    pub fn confirms(&mut self, r0: u64, memory: &[u8]) -> bool {
        let returned = self.run(1);
        if self.engine == Engine::Kernel {
            return returned == r0 & u64::from(u32::MAX);
        }
        returned == r0 && self.memory() == memory
    }
}

/// A program as if verified.
pub fn verified(program: &Program) -> VerifiedProgram {
    let spec = ProgramSpec {
        insns: program.insns.clone(),
        ..ProgramSpec::default()
    };
    VerifiedProgram::assume_verified(spec, Facts::default())
}

/// The program in `engine`; `None` if the engine cannot run it or is not here.
pub fn subject(engine: Engine, row: &Row, program: &Program) -> Result<Option<Subject>> {
    let mut world = Box::new(World::new(program, row.fill, row.bytes)?);
    let run = match engine {
        Engine::Native => Some(native(row, program, &mut world)?),
        Engine::Jit => Some(jit(program, &mut world, &Optimisations::ALL)?),
        Engine::Interpreter => Some(interpreter(program, &mut world)?),
        Engine::Rbpf | Engine::RbpfInterpreter => rbpf(engine, program, &mut world)?,
        Engine::Ubpf => ubpf(program, &mut world)?,
        Engine::Kernel => kernel(program, &world),
    };
    Ok(run.map(|run| Subject { engine, run, world }))
}

/// The program compiled with these optimisations.
pub fn compiled(row: &Row, program: &Program, optimisations: &Optimisations) -> Result<Subject> {
    let mut world = Box::new(World::new(program, row.fill, row.bytes)?);
    let run = jit(program, &mut world, optimisations)?;
    Ok(Subject {
        engine: Engine::Jit,
        run,
        world,
    })
}

/// How large the program is, compiled with these optimisations.
pub fn code_bytes(row: &Row, program: &Program, optimisations: &Optimisations) -> Result<f64> {
    let world = World::new(program, row.fill, row.bytes)?;
    let compiled =
        CompiledProgram::compile_with(&verified(program), &linker(&world), optimisations)?;
    Ok(compiled.code_bytes().len() as f64)
}

type Runs = Box<dyn FnMut(u64) -> u64>;

/// Calls `once` so many times.
fn repeat(mut once: impl FnMut() -> u64 + 'static) -> Runs {
    Box::new(move |times| (0..times).fold(0, |_, _| once()))
}

fn native(row: &Row, program: &Program, world: &mut World) -> Result<Runs> {
    let function = native::load(&row.library(), program, world)?;
    let (memory, len) = (world.start(), world.len() as u64);
    // SAFETY: the memory lives as long as the subject.
    Ok(repeat(move || unsafe { function(memory, len) }))
}

fn jit(program: &Program, world: &mut World, optimisations: &Optimisations) -> Result<Runs> {
    let compiled =
        CompiledProgram::compile_with(&verified(program), &linker(world), optimisations)?;
    let (entry, run) = (world.entry(), world.run());
    let function = compiled.entry();
    Ok(repeat(move || {
        let _keep = &compiled;
        // SAFETY: the programs are ours; the world lives as long as the subject.
        unsafe { function(entry, run) }
    }))
}

fn interpreter(program: &Program, world: &mut World) -> Result<Runs> {
    let interpreter = Interpreter::new(&verified(program), &linker(world))?;
    let (entry, run) = (world.entry(), world.run());
    // SAFETY: as for the JIT.
    Ok(repeat(move || unsafe { interpreter.run(entry, run) }))
}

/// rbpf, unless the program needs what it does not have: its JIT gives all
/// functions one frame.
fn rbpf(engine: Engine, program: &Program, world: &mut World) -> Result<Option<Runs>> {
    if program.has_maps() || (engine == Engine::Rbpf && program.has_frames()) {
        return Ok(None);
    }
    let code = program.bytes(|id, offset| world.constants(id, offset))?;
    // A benchmark ends soon; what rbpf borrows may stay.
    let code: &'static [u8] = code.leak();
    let Ok(mut machine) = rbpf::EbpfVmRaw::new(Some(code)) else {
        return Ok(None);
    };
    let memory = world.start() as u64;
    machine.register_allowed_memory(memory..memory + world.len() as u64);
    for range in world.constant_ranges() {
        machine.register_allowed_memory(range);
    }
    let entry = world.entry();
    // SAFETY: two words that live as long as the subject.
    let context = move || unsafe { std::slice::from_raw_parts_mut(entry, 16) };
    if engine == Engine::RbpfInterpreter {
        let run = move || machine.execute_program(context()).unwrap_or(u64::MAX);
        return Ok(Some(repeat(run)));
    }
    machine.jit_compile().map_err(|error| anyhow!("{error}"))?;
    Ok(Some(repeat(move || {
        // SAFETY: as for our JIT.
        unsafe { machine.execute_program_jit(context()) }.unwrap_or(u64::MAX)
    })))
}

/// The kernel, if this user may load programs and it accepts this one.
fn kernel(program: &Program, world: &World) -> Option<Runs> {
    let loaded = kernel::load(program, world.memory())?;
    Some(Box::new(move |times| {
        loaded.run(times).map_or(u64::MAX, u64::from)
    }))
}

/// ubpf, where `BPFTIME_BENCH_UBPF` or the loader finds its library.
fn ubpf(program: &Program, world: &mut World) -> Result<Option<Runs>> {
    let path = std::env::var_os("BPFTIME_BENCH_UBPF");
    let path = path.map_or_else(|| PathBuf::from("libubpf.so"), PathBuf::from);
    let Ok(library) = native::Library::open(&path) else {
        return Ok(None);
    };
    if program.has_maps() {
        return Ok(None);
    }
    let code = program.bytes(|id, offset| world.constants(id, offset))?;
    let library = Ubpf::new(&library).context("libubpf.so")?;
    let Some(function) = library.compile(&code) else {
        return Ok(None);
    };
    let entry = world.entry();
    // SAFETY: as for our JIT.
    Ok(Some(repeat(move || unsafe { function(entry, 16) })))
}
