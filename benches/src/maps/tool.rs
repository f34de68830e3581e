//! What a tool's own calls cost, and how long it sleeps after a record was
//! written: an unmodified client of libbpf (`fixtures/tools/toolcost.c`) with
//! the library preloaded, beside the same one on the kernel.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use tests::{Program, World};

/// Words of which one asks for these rows.
pub const NAMES: [&str; 2] = ["bpf(2)", "reader"];

/// Runs of each; the least counts.
const RUNS: usize = 3;

/// Prints the rows whose names contain all `wanted` words.
pub fn compare(wanted: &[String]) -> Result<()> {
    let (ours, kernel) = (World::new(), World::kernel());
    let mut rows = measure(&ours)?;
    let theirs = kernel
        .as_ref()
        .map(measure)
        .transpose()?
        .unwrap_or_default();
    rows.retain(|(name, _)| wanted.iter().all(|word| name.contains(word.as_str())));
    let mut out = std::io::stdout();
    for (name, ns) in rows {
        write!(out, "{name:<42}{ns:>10.1}")?;
        match theirs.iter().find(|(other, _)| *other == name) {
            Some((_, ns)) => writeln!(out, "{ns:>10.1}")?,
            None => writeln!(out, "{:>10}", "-")?,
        }
    }
    Ok(())
}

fn measure(world: &World) -> Result<Vec<(String, f64)>> {
    let mut rows: Vec<(String, f64)> = Vec::new();
    for _ in 0..RUNS {
        for (name, ns) in calls(world)?.into_iter().chain(wakes(world)?) {
            match rows.iter_mut().find(|(known, _)| *known == name) {
                Some((_, least)) => *least = least.min(ns),
                None => rows.push((name, ns)),
            }
        }
    }
    Ok(rows)
}

fn calls(world: &World) -> Result<Vec<(String, f64)>> {
    let words = [world.fixture("toolcost").into_os_string(), "calls".into()];
    let said = Program::on_pipes(world.tool(&words)).finish();
    ensure!(said.code == 0, "toolcost: {}", said.stderr);
    let row = |line: &str| {
        let (name, ns) = line.rsplit_once(' ')?;
        Some((format!("bpf(2) {name}"), ns.parse().ok()?))
    };
    said.stdout
        .lines()
        .map(|line| row(line).with_context(|| line.to_owned()))
        .collect()
}

fn wakes(world: &World) -> Result<Vec<(String, f64)>> {
    let path = world.fixture("toolcost");
    let words = ["wakes".into(), path.clone().into_os_string(), "tick".into()];
    let words = [vec![path.clone().into_os_string()], words.to_vec()].concat();
    let mut tool = Program::on_pipes(world.tool(&words));
    assert_eq!(tool.line(), "ready");
    let mut target = world.start(&[path.into_os_string(), "caller".into()]);
    assert_eq!(target.line(), "ready");
    let said = tool.ask("go");
    target.kill();
    let mut numbers = said.split(' ').map(str::parse);
    let mut number = || numbers.next().context("a number")?.context(said.clone());
    Ok(vec![
        ("ring record to its reader, median".into(), number()?),
        ("ring record to its reader, 10%".into(), number()?),
    ])
}
