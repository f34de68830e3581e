//! The results as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::engines::Engine;
use crate::measure::median;
use crate::programs::{CPUS, Group};

/// One program, compiled for one instruction set.
#[derive(Serialize)]
pub struct Measured {
    /// Name of its C file.
    pub name: &'static str,
    /// What it is about.
    pub group: Group,
    /// `-mcpu`.
    pub cpu: &'static str,
    /// Instructions.
    pub insns: usize,
    /// Nanoseconds of a run, by engine.
    pub ns: BTreeMap<&'static str, f64>,
    /// Microseconds that our JIT takes to compile it.
    pub compile_us: f64,
    /// Bytes of machine code.
    pub code_bytes: usize,
}

impl Measured {
    /// Time of `engine` as a multiple of native.
    pub fn ratio(&self, engine: Engine) -> Option<f64> {
        Some(self.ns.get(engine.name())? / self.ns.get(Engine::Native.name())?)
    }
}

/// Entering a program that does nothing, in nanoseconds.
#[derive(Serialize)]
pub struct Entry {
    /// As a C function.
    pub native_ns: f64,
    /// As compiled by our JIT.
    pub jit_ns: f64,
}

/// What goes into `target/bench-vm.json`.
#[derive(Serialize)]
pub struct Report {
    /// One row for each program and instruction set.
    pub programs: Vec<Measured>,
    /// An empty program.
    pub entry: Entry,
    /// Geometric means of the multiples of native, by instruction set and engine.
    pub means: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
    /// Median over programs of the microseconds that our JIT takes.
    pub compile_us: f64,
}

/// Geometric mean; `None` of nothing.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let logarithms: Vec<f64> = values.map(f64::ln).collect();
    let count = logarithms.len() as f64;
    (count > 0.0).then(|| (logarithms.iter().sum::<f64>() / count).exp())
}

impl Report {
    /// Sums up what was measured.
    pub fn new(programs: Vec<Measured>, entry: Entry) -> Report {
        let mut means = BTreeMap::new();
        for cpu in CPUS {
            let rows = || programs.iter().filter(|row| row.cpu == cpu);
            let of = |engine: Engine| mean(rows().filter_map(|row| row.ratio(engine)));
            let by_engine = Engine::ALL
                .into_iter()
                .filter_map(|engine| Some((engine.name(), of(engine)?)));
            means.insert(cpu, by_engine.collect());
        }
        let compile_us = median(programs.iter().map(|row| row.compile_us).collect());
        Report {
            programs,
            entry,
            means,
            compile_us,
        }
    }
}

/// A number with three digits that matter, or a dash.
struct Short(Option<f64>);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            None => "-".to_owned(),
            Some(value) if value >= 100.0 => format!("{value:.0}"),
            Some(value) if value >= 10.0 => format!("{value:.1}"),
            Some(value) => format!("{value:.2}"),
        };
        f.pad(&text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = |engine: &Engine| self.means.values().any(|m| m.contains_key(engine.name()));
        let others: Vec<Engine> = Engine::ALL[1..].iter().copied().filter(measured).collect();
        write!(f, "{:<16}{:<4}{:>10}", "multiples of", "", "native ns")?;
        for engine in &others {
            write!(f, "{:>10}", engine.name())?;
        }
        writeln!(f, "{:>12}{:>8}", "compile µs", "bytes")?;
        for row in &self.programs {
            let native = row.ns.get(Engine::Native.name()).copied();
            write!(f, "{:<16}{:<4}{:>10}", row.name, row.cpu, Short(native))?;
            for &engine in &others {
                write!(f, "{:>10}", Short(row.ratio(engine)))?;
            }
            let compile = Short(Some(row.compile_us));
            writeln!(f, "{compile:>12}{:>8}", row.code_bytes)?;
        }
        for (cpu, means) in &self.means {
            write!(f, "{:<16}{cpu:<4}{:>10}", "geometric mean", "")?;
            for engine in &others {
                write!(f, "{:>10}", Short(means.get(engine.name()).copied()))?;
            }
            write!(f, "\n{:<16}{cpu:<4}{:>10}", "of programs", "")?;
            for &engine in &others {
                let ran = |row: &&Measured| row.cpu == *cpu && row.ratio(engine).is_some();
                write!(f, "{:>10}", self.programs.iter().filter(ran).count())?;
            }
            writeln!(f)?;
        }
        let Entry { native_ns, jit_ns } = self.entry;
        writeln!(
            f,
            "\nentry of an empty program: {jit_ns:.2} ns, native {native_ns:.2} ns\n\
             compile time, median over programs: {:.1} µs",
            self.compile_us
        )
    }
}
