//! `make bench-probes`: nanoseconds above the unprobed call for every kind of
//! probe beside the kernel's, many threads on one probe, and every function of
//! Python's library. It goes the way that users go, but for the last, which
//! `attach/examples/library.rs` measures in a process of its own.
//!
//! Reading order: [`probes`] and [`syscalls`] (nanoseconds a call), [`report`] (its rows).

#[allow(dead_code, reason = "`make bench` uses the rest")]
mod probes;
#[allow(dead_code, reason = "`make bench` uses the rest")]
mod report;
mod syscalls;

use std::fmt::{self, Write as _};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use tests::World;

use report::{ProbeCost, Threads};

/// What others need, in nanoseconds above the unprobed call: quoted, not
/// measured here (two cores of AMD Zen 5 under KVM, Linux 6.18). C++ bpftime
/// with its LLVM back end, and frida-gum 17.9 with a native callback.
const QUOTED: [(&str, Option<u32>, Option<u32>); 7] = [
    ("empty uprobe", Some(230), Some(206)),
    ("empty uretprobe", Some(228), Some(209)),
    ("uprobe + hash ++", Some(245), None),
    ("uprobe + per-CPU array ++", Some(239), None),
    ("uprobe + 16-byte ring record", Some(263), None),
    ("traced system call, enter", Some(123), None),
    ("other system call", Some(115), None),
];

/// What we want to reach.
const GOALS: [(&str, f64); 7] = [
    ("empty uprobe", 4.0),
    ("empty uretprobe", 8.0),
    ("uprobe + hash ++", 18.0),
    ("uprobe + per-CPU array ++", 8.0),
    ("uprobe + 16-byte ring record", 25.0),
    ("traced system call, enter", 8.0),
    ("other system call", 3.0),
];

const LIBRARIES: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0",
    "/usr/lib/x86_64-linux-gnu/libpython3.13.so.1.0",
    "/usr/lib/x86_64-linux-gnu/libpython3.12.so.1.0",
];

/// Everything that was measured.
#[derive(Serialize)]
struct Report {
    probes: Vec<ProbeCost>,
    syscalls: Vec<ProbeCost>,
    threads: Threads,
    /// What the example printed; null without Python's library.
    library: Value,
}

fn main() -> Result<()> {
    let ours = World::new();
    let kernel = World::kernel();
    let report = Report {
        probes: probes::measure(&ours, kernel.as_ref())?,
        syscalls: syscalls::measure(&ours, kernel.as_ref())?,
        threads: probes::measure_threads(&ours)?,
        library: library()?,
    };
    let path = root()?.join("target/bench-probes.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?)?;
    write!(
        std::io::stdout(),
        "{report}\nwritten to {}\n",
        path.display()
    )?;
    Ok(())
}

fn root() -> Result<PathBuf> {
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(benches.parent().context("the workspace")?.to_owned())
}

/// Every function of Python's library.
fn library() -> Result<Value> {
    let Some(library) = LIBRARIES.iter().find(|path| Path::new(path).exists()) else {
        return Ok(Value::Null);
    };
    let example = root()?.join("target/release/examples/library");
    let output = Command::new(&example).arg(library).output()?;
    ensure!(output.status.success(), "{example:?}: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "nanoseconds above the unprobed call\n")?;
        writeln!(
            f,
            "{:<31}{:<16}{:>8}{:>8}{:>8}{:>8}{:>16}{:>11}",
            "probe", "function", "median", "best", "reach", "kernel", "C++ (quoted)", "frida (q.)"
        )?;
        for cost in self.probes.iter().chain(&self.syscalls) {
            let goal = GOALS.iter().find(|(probe, _)| *probe == cost.probe);
            let quoted = QUOTED.iter().find(|(probe, ..)| *probe == cost.probe);
            let (cpp, frida) = quoted.map_or((None, None), |(_, cpp, frida)| (*cpp, *frida));
            writeln!(
                f,
                "{:<31}{:<16}{:>8.1}{:>8.1}{:>8}{:>8}{:>16}{:>11}",
                cost.probe,
                cost.first_instruction,
                cost.bpftime_ns,
                cost.bpftime_best_ns,
                or_dash(goal.map(|(_, goal)| *goal)),
                or_dash(cost.kernel_ns.map(f64::round)),
                or_dash(cpp),
                or_dash(frida),
            )?;
        }
        let Threads {
            threads,
            one_ns,
            many_ns,
        } = &self.threads;
        writeln!(
            f,
            "\nempty uprobe, processor time a call: {one_ns:.1} on 1 thread, {many_ns:.1} on each of {threads}"
        )?;
        let mut lines = String::new();
        for (kinds, name) in [("entry", "entry"), ("entry_and_return", "entry and return")] {
            let figure = |key: &str| self.library[kinds][key].as_f64().unwrap_or(f64::NAN);
            let plain = self.library["plain_ms"].as_f64().unwrap_or(f64::NAN);
            writeln!(
                lines,
                "every function of libpython at {name}: {} of {} probes, attach {} ms, detach {} ms, \
                 json and re with {} hits {:.2} times as long",
                figure("attached"),
                figure("asked"),
                figure("attach_ms"),
                figure("detach_ms"),
                figure("hits"),
                figure("workload_ms") / plain,
            )?;
        }
        f.write_str(&lines)
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
