//! What a pair of verdicts means. It counts nothing.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::verdicts::{Row, Verdict};

/// What a pair of verdicts means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Accepted by both.
    Both,
    /// Refused by both.
    Neither,
    /// The kernel accepts it and we do not.
    Stricter,
    /// We accept it, the kernel does not, and nothing says why that is right.
    Unsafe,
    /// As `Unsafe`, with a reason in `data/differences.txt`.
    Listed,
    /// The kernel did not come to judge the program.
    NotJudged,
    /// A verifier did not end, or its process died.
    Broken,
}

/// Program types that can run in user space; libbpf's names.
const USER_SPACE: [&str; 9] = [
    "socket_filter",
    "kprobe",
    "tracepoint",
    "raw_tracepoint",
    "raw_tracepoint_writable",
    "perf_event",
    "xdp",
    "sched_cls",
    "sched_act",
];

/// Whether programs of the type can run in user space at all.
pub fn is_user_space(type_name: &str) -> bool {
    USER_SPACE.contains(&type_name)
}

/// What the kernel says where the place and not the program is wrong: the
/// target of an attachment, types and functions that this kernel lacks.
const PLACE: [&str; 5] = [
    "attach_btf_id",
    "Attach to unsupported",
    "is not found in kernel",
    "Cannot replace",
    "is not a kernel function",
];

/// Judges a program.
pub fn class(row: &Row, differences: &Differences) -> Class {
    let broken = |verdict: &Verdict| matches!(verdict.outcome.as_str(), "timeout" | "crashed");
    let Some(kernel) = &row.kernel else {
        return Class::NotJudged;
    };
    if broken(&row.bpftime) || broken(kernel) {
        return Class::Broken;
    }
    let accepted = row.bpftime.outcome == "accepted";
    match kernel.outcome.as_str() {
        "accepted" if accepted => Class::Both,
        "accepted" => Class::Stricter,
        "refused" if is_judged(kernel) => match accepted {
            false => Class::Neither,
            true if differences.explain(row, kernel) => Class::Listed,
            true => Class::Unsafe,
        },
        _ => Class::NotJudged,
    }
}

/// The verifier looked at the program: it gave a reason that is about it.
fn is_judged(kernel: &Verdict) -> bool {
    !kernel.reason.is_empty() && !PLACE.iter().any(|words| kernel.reason.contains(words))
}

/// Programs that we accept for a reason though the kernel refuses them.
pub struct Differences(Vec<String>);

impl Differences {
    /// Reads `data/differences.txt`: a pattern and a reason in each line,
    /// with ` :: ` between them. A pattern is part of
    /// `OBJECT/PROGRAM: WHAT THE KERNEL SAYS`, OBJECT without folders.
    pub fn read() -> Result<Differences> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/differences.txt");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let mut patterns = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (pattern, reason) = line.split_once(" :: ").context("a line without ` :: `")?;
            anyhow::ensure!(!reason.trim().is_empty(), "{pattern} has no reason");
            patterns.push(pattern.trim().to_owned());
        }
        Ok(Differences(patterns))
    }

    fn explain(&self, row: &Row, kernel: &Verdict) -> bool {
        let file = row.object.rsplit('/').next().unwrap_or_default();
        let case = format!("{file}/{}: {}", row.name, kernel.reason);
        self.0.iter().any(|pattern| case.contains(pattern.as_str()))
    }
}
