//! `make bench-clients`: unmodified tools beside the same tools in the kernel.
//! How long they take to start, and what they cost servers under load. It
//! goes the way that users go and knows none of bpftime's crates.
//!
//! Reading order: [`tool`] (a running tool whose output nobody keeps),
//! [`startup`], [`server`] (redis and nginx, and who asks them), [`load`] (rounds),
//! [`report`].

mod load;
mod report;
mod server;
mod startup;
mod tool;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{Mode, World};

/// Turns of every measurement, if the environment's `ROUNDS` names no other number.
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    let ours = World::new();
    let kernel = World::kernel();
    let rounds = match std::env::var("ROUNDS") {
        Ok(rounds) => rounds.parse().context("ROUNDS")?,
        Err(_) => ROUNDS,
    };
    let words: Vec<String> = std::env::args().skip(1).collect();
    let headers = headers(&ours)?;
    let worlds = Worlds {
        ours: &ours,
        kernel: kernel.as_ref(),
        headers: &headers,
    };
    let report = report::Report {
        startup: startup::measure(&worlds, rounds, &words)?,
        load: load::measure(&worlds, rounds, &words)?,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let path = root.join("target/bench-clients.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
    write!(
        std::io::stdout(),
        "{report}\nwritten to {}\n",
        path.display()
    )?;
    Ok(())
}

/// Both worlds, and what bcc reads in both.
struct Worlds<'a> {
    ours: &'a World,
    kernel: Option<&'a World>,
    headers: &'a Path,
}

impl Worlds<'_> {
    /// A tool's command in one of them.
    fn tool(&self, world: &World, words: &[String]) -> Command {
        let mut command = world.tool(words);
        command.env("PYTHONUNBUFFERED", "1");
        if world.mode() == Mode::Kernel {
            command.env("BCC_KERNEL_SOURCE", self.headers);
        }
        command
    }

    /// Ours, then the kernel's, if it can be had.
    fn both(&self) -> impl Iterator<Item = &World> {
        std::iter::once(self.ours).chain(self.kernel)
    }
}

/// The tree of headers that bcc finds under bpftime: the kernel's tools get it, too.
fn headers(world: &World) -> Result<PathBuf> {
    let script = "cd /lib/modules/$(uname -r)/build && pwd -P";
    let found = world.run(&["load", "sh", "-c", script]);
    ensure!(found.code == 0, "{found:?}");
    Ok(PathBuf::from(found.stdout.trim()))
}

/// Whether a measurement was asked for: it has one of `words` in its name.
fn is_wanted(name: &str, words: &[String]) -> bool {
    words.is_empty() || words.iter().any(|word| name.contains(word))
}

/// The middle one of `values`; the upper of two.
fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The least of `values`: on a loaded machine the others were interrupted.
fn best(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MAX, f64::min)
}
