//! `make bench-vm`: the same C programs as native code and in every engine
//! that is here, in one run. It measures engines only: no session, no hook,
//! no verifier.
//!
//! Reading order: [`programs`] (what runs), [`object`] (bytecode from ELF),
//! [`world`] (what a run touches), [`engines`], [`measure`], [`report`],
//! [`toggle`] (what each optimisation is worth).

mod engines;
mod kernel;
mod measure;
mod native;
mod object;
mod programs;
mod report;
#[cfg(test)]
mod tests;
mod toggle;
mod ubpf;
mod world;

use std::io::Write;

use anyhow::{Context, Result, bail};

use engines::Engine;
use programs::{CPUS, Group, ROWS};
use report::{Entry, Report};

const USAGE: &str = "usage: bench-vm [--kernel | --toggle] [NAME…]
Measures programs whose names contain a NAME, or all.
--kernel: in the kernel, too, as root; a minute more for its verifier
--toggle: what each optimisation of the JIT is worth";

fn main() -> Result<()> {
    let mut toggle = false;
    let mut engines = Engine::HERE.to_vec();
    let mut names = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--toggle" => toggle = true,
            "--kernel" => engines.push(Engine::Kernel),
            other if other.starts_with('-') => bail!(USAGE),
            other => names.push(other.to_owned()),
        }
    }
    programs::build()?;
    let wanted = |name: &str| names.is_empty() || names.iter().any(|part| name.contains(part));
    if toggle {
        return print_worths(&wanted);
    }
    let mut measured = Vec::new();
    for row in ROWS.iter().filter(|row| row.group != Group::Entry) {
        for cpu in CPUS.into_iter().filter(|_| wanted(row.name)) {
            if let Some(program) = row.program(cpu)? {
                measured.push(measure::program(&engines, row, cpu, &program)?);
            }
        }
    }
    if measured.is_empty() {
        bail!("no program has such a name");
    }
    let report = Report::new(measured, entry()?);
    let path = programs::outputs().with_extension("json");
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
    writeln!(std::io::stdout(), "{report}written to {}", path.display())?;
    Ok(())
}

fn print_worths(wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{:<28}{:>8}{:>8}  most", "without", "slower", "larger")?;
    for worth in toggle::measure(wanted)? {
        let (program, factor) = worth.most;
        let (name, mean, bytes) = (worth.name, worth.mean, worth.bytes);
        writeln!(
            out,
            "{name:<28}{mean:>8.3}{bytes:>8.3}  {program} {factor:.2}"
        )?;
    }
    Ok(())
}

/// The cost of entering the first row's program, which does nothing.
fn entry() -> Result<Entry> {
    let row = &ROWS[0];
    let mut program = row.program(CPUS[0])?.context("the empty program")?;
    // Nor does it need its arguments.
    program.insns.drain(..2);
    let times = measure::nanoseconds(|_| {
        let engines = [Engine::Native, Engine::Jit].into_iter();
        let subjects = engines.map(|engine| engines::subject(engine, row, &program));
        let subjects: Vec<_> = subjects.collect::<Result<_>>()?;
        Ok(subjects.into_iter().flatten().collect())
    })?;
    Ok(Entry {
        native_ns: times[0].1,
        jit_ns: times[1].1,
    })
}
