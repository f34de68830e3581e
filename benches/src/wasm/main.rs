//! `make bench-wasm`: what `bpftime run` takes for a Wasm module that carries
//! eBPF, in user space as an ordinary user and in the kernel as root, in turn.
//! The guest is the fixture `speed.wasm`, of 109 KB. It goes the way that users
//! go and knows none of bpftime's crates.
//!
//! - Start: from the start of the command until the guest says that its probe
//!   is attached, to a function of a process that already runs. Attaching
//!   returns when that process has the probe. Cold: no compiled code is cached.
//! - Lookups: in a loop of the guest's, the time of one call.
//! - Events: records of 16 bytes that wait in a ring buffer (a million), and
//!   those of a target that reports meanwhile, each handed to the guest's function.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tests::{Program, World};

/// Turns of every measurement, if the environment's `ROUNDS` names no other number.
const ROUNDS: usize = 9;
const LOOKUPS: u64 = 1_000_000;
/// Records of one call of the target's function (fixtures/tools/speed.bpf.c).
const RECORDS: u64 = 1000;
const WAITING: u64 = 1_000_000;
const STREAMED: u64 = 2_000_000;
/// The target makes more, for the guest may not get all.
const SURPLUS: u64 = 8;

fn main() -> Result<()> {
    let rounds = match std::env::var("ROUNDS") {
        Ok(rounds) => rounds.parse().context("ROUNDS")?,
        Err(_) => ROUNDS,
    };
    let ours = Place::new(World::new(), &[]);
    let kernel = World::privileged().map(|world| Place::new(world, &["--runtime", "kernel"]));
    let report = Report::measure(&ours, kernel.as_ref(), rounds)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let path = root.join("target/bench-wasm.json");
    fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
    write!(
        std::io::stdout(),
        "{report}\nwritten to {}\n",
        path.display()
    )?;
    Ok(())
}

/// Where programs run.
struct Place {
    world: World,
    options: &'static [&'static str],
}

impl Place {
    fn new(world: World, options: &'static [&'static str]) -> Place {
        Place { world, options }
    }

    fn command(&self, words: &[&str]) -> Command {
        let module = self.world.fixture("speed.wasm").display().to_string();
        let run = [&["run"], self.options, &[&*module], words].concat();
        self.world.bpftime(&run)
    }

    /// A target that waits for orders: with an agent, if programs run there.
    fn target(&self) -> Program {
        let words = [self.world.fixture("producers"), "1".into(), "1".into()];
        let mut target = match self.options {
            [] => self.world.start(&words),
            _ => Program::on_pipes(self.world.plain(&words)),
        };
        assert_eq!(target.line(), "ready");
        target
    }

    fn function(&self) -> String {
        format!("{}:produce", self.world.fixture("producers").display())
    }

    /// Milliseconds until the probe is armed.
    fn start(&self, cold: bool) -> Result<f64> {
        let cache = self.world.home().join("state/wasm");
        if cold && cache.exists() {
            fs::remove_dir_all(&cache)?;
        }
        let command = self.command(&["start", &self.function()]);
        let begun = Instant::now();
        let mut guest = Program::on_pipes(command);
        let line = guest.line();
        let time = begun.elapsed().as_secs_f64() * 1e3;
        let exit = guest.finish();
        ensure!(line == "ready" && exit.code == 0, "{exit:?}");
        Ok(time)
    }

    /// Nanoseconds of one lookup.
    fn lookup(&self, map: &str) -> Result<f64> {
        let guest = Program::on_pipes(self.command(&["lookups", map, &LOOKUPS.to_string()]));
        let exit = guest.finish();
        ensure!(exit.code == 0, "{exit:?}");
        let [time, _] = numbers(&exit.stdout)?;
        Ok(time as f64 / LOOKUPS as f64)
    }

    /// Millions of records in a second that waited in the ring.
    fn waiting(&self, target: &mut Program) -> Result<f64> {
        let words = ["events", &self.function(), &WAITING.to_string()];
        let mut guest = Program::on_pipes(self.command(&words));
        ensure!(guest.line() == "ready", "{:?}", guest.finish());
        ensure!(target.ask(&format!("calls {}", WAITING / RECORDS)) == "ok");
        let [time, count, sum] = numbers(&guest.ask(""))?;
        ensure!(guest.finish().code == 0);
        ensure!(count == WAITING && sum == WAITING / RECORDS * (RECORDS * (RECORDS - 1) / 2));
        Ok(count as f64 * 1e3 / time as f64)
    }

    /// The same of records that come meanwhile.
    fn streamed(&self, target: &mut Program) -> Result<f64> {
        let words = ["stream", &self.function(), &STREAMED.to_string()];
        let mut guest = Program::on_pipes(self.command(&words));
        ensure!(guest.line() == "ready", "{:?}", guest.finish());
        target.tell(&format!("calls {}", SURPLUS * STREAMED / RECORDS));
        let [time, count, _] = numbers(&guest.line())?;
        ensure!(guest.finish().code == 0);
        ensure!(target.line() == "ok");
        Ok(count as f64 * 1e3 / time as f64)
    }

    fn round(&self, target: &mut Program) -> Result<[f64; 6]> {
        Ok([
            self.start(true)?,
            self.start(false)?,
            self.lookup("array")?,
            self.lookup("hash")?,
            self.waiting(target)?,
            self.streamed(target)?,
        ])
    }
}

/// What is measured, its unit, and whether less is better.
const ROWS: [(&str, &str, bool); 6] = [
    ("start, cold", "ms", true),
    ("start, warm", "ms", true),
    ("lookup in an array", "ns", true),
    ("lookup in a hash map", "ns", true),
    ("records that wait", "million/s", false),
    ("records that come", "million/s", false),
];

#[derive(Serialize)]
struct Row {
    what: &'static str,
    unit: &'static str,
    bpftime: f64,
    bpftime_best: f64,
    kernel: Option<f64>,
    kernel_best: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    rounds: usize,
    rows: Vec<Row>,
}

impl Report {
    fn measure(ours: &Place, kernel: Option<&Place>, rounds: usize) -> Result<Report> {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let mut target = ours.target();
        let mut traced = kernel.map(Place::target);
        // Libraries are unpacked and files read afterwards.
        ours.start(false)?;
        for _ in 0..rounds {
            here.push(ours.round(&mut target)?);
            if let (Some(kernel), Some(traced)) = (kernel, &mut traced) {
                there.push(kernel.round(traced)?);
            }
        }
        let mut rows = Vec::new();
        for (index, (what, unit, less)) in ROWS.into_iter().enumerate() {
            let all = |rounds: &[[f64; 6]]| {
                let mut all: Vec<f64> = rounds.iter().map(|round| round[index]).collect();
                all.sort_by(f64::total_cmp);
                all
            };
            let median = |all: &[f64]| all.get(all.len() / 2).copied();
            let best = |all: &[f64]| if less { all.first() } else { all.last() }.copied();
            let (here, there) = (all(&here), all(&there));
            rows.push(Row {
                what,
                unit,
                bpftime: median(&here).context("no rounds")?,
                bpftime_best: best(&here).context("no rounds")?,
                kernel: median(&there),
                kernel_best: best(&there),
            });
        }
        Ok(Report { rounds, rows })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        writeln!(
            f,
            "{} rounds\n{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}",
            self.rounds, "", "", "bpftime", "best", "kernel", "best"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}",
                row.what,
                row.unit,
                cell(Some(row.bpftime)),
                cell(Some(row.bpftime_best)),
                cell(row.kernel),
                cell(row.kernel_best)
            )?;
        }
        Ok(())
    }
}

/// The numbers that a guest printed.
fn numbers<const N: usize>(line: &str) -> Result<[u64; N]> {
    let words: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .with_context(|| line.to_owned())?;
    words.try_into().ok().with_context(|| line.to_owned())
}
