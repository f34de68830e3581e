//! Times programs: engines take turns, so that all meet the same machine.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use runtime::program::linker;
use vm::jit::CompiledProgram;

use crate::engines::{self, Engine, Subject};
use crate::object::Program;
use crate::programs::Row;
use crate::report::Measured;
use crate::world::World;

/// Layouts of memory that programs are measured in: where a program's stack,
/// memory and maps lie to each other can be worth more than all optimisations.
const LAYOUTS: usize = 5;
/// Turns that each engine gets in a layout; odd, so that there is a middle one.
const ROUNDS: usize = 7;
/// Least time of one turn: much shorter than what a thread runs for between
/// others, so that most turns meet caches and frequency as they left them.
const TURN: Duration = Duration::from_micros(300);
/// Compilations of a program, of which the median counts.
const COMPILATIONS: usize = 31;

/// The middle one of an odd number of values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Time that this thread has run for: other threads do not count.
fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long `work` takes.
fn took(work: impl FnOnce()) -> Duration {
    let start = thread_time();
    work();
    thread_time() - start
}

/// How many runs fill a turn.
fn runs_per_turn(subject: &mut Subject) -> u64 {
    let mut runs = 1;
    loop {
        let took = took(|| _ = subject.run(runs));
        if took >= TURN {
            return runs;
        }
        let wanted = TURN.as_nanos() as u64 / (took.as_nanos() as u64 / runs).max(1) + 1;
        runs = wanted.clamp(runs * 2, runs * 64);
    }
}

/// Nanoseconds of a run, medians of turns: a list for each place in what
/// `make` makes for a layout, which is given by number. A later layout may
/// have fewer subjects, of the same kinds.
pub fn nanoseconds(
    mut make: impl FnMut(usize) -> Result<Vec<Subject>>,
) -> Result<Vec<(Engine, f64)>> {
    let mut times: Vec<(Engine, Vec<f64>)> = Vec::new();
    let mut shift = Vec::new();
    for layout in 0..LAYOUTS {
        let mut subjects = make(layout)?;
        // What the next layout allocates lies elsewhere.
        shift.push(vec![0u8; 1000 + 328 * layout]);
        if times.is_empty() {
            let engines = subjects.iter().map(|subject| subject.engine);
            times.extend(engines.map(|engine| (engine, Vec::new())));
        }
        let runs: Vec<u64> = subjects.iter_mut().map(runs_per_turn).collect();
        for _ in 0..ROUNDS {
            for (at, subject) in subjects.iter_mut().enumerate() {
                let took = took(|| _ = subject.run(runs[at]));
                times[at].1.push(took.as_nanos() as f64 / runs[at] as f64);
            }
        }
    }
    drop(std::hint::black_box(shift));
    let middle = |(engine, times)| (engine, median(times));
    Ok(times.into_iter().map(middle).collect())
}

/// The program in all of `engines` that can run it. Their first runs return the
/// same and leave the same memory; engines of others that do not are left out.
///
/// # Errors
/// One of our engines fails or differs.
pub fn subjects(
    engines: &[Engine],
    row: &Row,
    cpu: &str,
    program: &Program,
) -> Result<Vec<Subject>> {
    let mut ours = Vec::new();
    let mut others = Vec::new();
    for &engine in engines {
        let kept = if engine.is_ours() {
            &mut ours
        } else {
            &mut others
        };
        kept.extend(engines::subject(engine, row, program)?);
    }
    let r0 = agree(row, cpu, &mut ours)?;
    others.retain_mut(|other| other.confirms(r0, ours[0].memory()));
    ours.append(&mut others);
    Ok(ours)
}

/// Runs each once: r0, which is returned, and memory must be those of the first.
pub fn agree(row: &Row, cpu: &str, subjects: &mut [Subject]) -> Result<u64> {
    let r0: Vec<u64> = subjects.iter_mut().map(|subject| subject.run(1)).collect();
    for (subject, result) in subjects.iter().zip(&r0) {
        let name = format!("{} {cpu}: {}", row.name, subject.engine.name());
        ensure!(
            *result == r0[0],
            "{name} returns {result:#x}, not {:#x}",
            r0[0]
        );
        ensure!(
            subject.memory() == subjects[0].memory(),
            "{name} leaves other memory"
        );
    }
    Ok(r0[0])
}

/// Measures one program.
pub fn program(
    engines: &[Engine],
    row: &Row,
    cpu: &'static str,
    program: &Program,
) -> Result<Measured> {
    let times = nanoseconds(|layout| {
        // The kernel's verifier takes its time, and its memory is its own.
        let again = |engine: &&Engine| layout == 0 || **engine != Engine::Kernel;
        let engines: Vec<Engine> = engines.iter().filter(again).copied().collect();
        subjects(&engines, row, cpu, program)
    })?;
    let ns: BTreeMap<&str, f64> = times.iter().map(|(e, ns)| (e.name(), *ns)).collect();

    let world = World::new(program, row.fill, row.bytes)?;
    let verified = engines::verified(program);
    let mut compile_us = Vec::new();
    let mut code_bytes = 0;
    for _ in 0..COMPILATIONS {
        let mut compiled = None;
        let compile = || CompiledProgram::compile(&verified, &linker(&world));
        let took = took(|| compiled = Some(compile()));
        compile_us.push(took.as_nanos() as f64 / 1000.0);
        code_bytes = compiled.context("no program")??.code_bytes().len();
    }
    Ok(Measured {
        name: row.name,
        group: row.group,
        cpu,
        insns: program.insns.len(),
        ns,
        compile_us: median(compile_us),
        code_bytes,
    })
}
