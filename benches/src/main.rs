//! `make bench`: what a probe costs here and in the kernel, measured on the
//! same machine code in one run. It goes the way that users go (`bpftime
//! load`, `bpftime start`) and knows none of bpftime's crates.
//!
//! Reading order: [`probes`] and [`syscalls`] (nanoseconds a call), [`startup`] (the agent in
//! `/bin/true`), [`report`] (table and JSON).

#[allow(dead_code, reason = "`make bench-probes` uses the rest")]
mod probes;
#[allow(dead_code, reason = "`make bench-probes` uses the rest")]
mod report;
mod startup;
mod syscalls;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tests::World;

fn main() -> Result<()> {
    let ours = World::new();
    let kernel = World::kernel();
    let report = report::Report {
        probes: probes::measure(&ours, kernel.as_ref())?,
        syscalls: syscalls::measure(&ours, kernel.as_ref())?,
        startup: startup::measure(&ours)?,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let path = root.join("target/bench.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
    write!(
        std::io::stdout(),
        "{report}\nwritten to {}\n",
        path.display()
    )?;
    Ok(())
}

/// The least of `values`: on a loaded machine the others were interrupted.
fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MAX, f64::min)
}

/// The middle one of `values`; the upper of two.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
