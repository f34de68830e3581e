//! Asks both verifiers about an object through `bpftime verify --json`. It
//! knows no judgement.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What a verifier said; `bpftime verify --json` documents the fields.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Verdict {
    pub outcome: String,
    pub errno: String,
    pub reason: String,
    pub processed: Option<u64>,
    pub usec: Option<u64>,
}

/// A program and both verdicts.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    #[serde(default)]
    pub object: String,
    pub name: String,
    pub section: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub insns: usize,
    pub bpftime: Verdict,
    /// None for a program that an earlier run did not see.
    #[serde(default)]
    pub kernel: Option<Verdict>,
}

/// An object's rows, or why it has none.
pub struct Asked {
    pub object: String,
    pub rows: Result<Vec<Row>, String>,
}

/// The kernel's verdicts by object and program.
type Known = HashMap<String, HashMap<String, Verdict>>;

/// Where verdicts come from.
pub struct Oracle {
    bpftime: PathBuf,
    timeout: u64,
    /// From an earlier run.
    known: Known,
}

impl Oracle {
    /// By the `bpftime` that was built, or that `BPFTIME_BIN` names; with the
    /// kernel's verdicts from the rows in `known`.
    pub fn new(timeout: u64, known: Option<&Path>) -> Result<Oracle> {
        let bpftime = find_bpftime()?;
        let known = known.map_or_else(|| Ok(Known::new()), read_known)?;
        Ok(Oracle {
            bpftime,
            timeout,
            known,
        })
    }

    /// What both say of the programs of `object`.
    pub fn ask(&self, object: &Path) -> Asked {
        let name = object.display().to_string();
        let rows = match self.known.get(&name) {
            Some(verdicts) => self.verify(object, None, &[]).map(|mut rows| {
                for row in &mut rows {
                    row.kernel = verdicts.get(&row.name).cloned();
                }
                rows
            }),
            None => self.verify(object, None, BOTH),
        };
        let rows = rows.map(|mut rows| {
            rows.iter_mut().for_each(|row| row.object.clone_from(&name));
            rows
        });
        Asked { object: name, rows }
    }

    /// What both say of one program of `object`.
    pub fn ask_about(&self, object: &Path, program: &str) -> Result<Option<Row>, String> {
        let mut rows = self.verify(object, Some(program), BOTH)?;
        Ok(rows.pop())
    }

    fn verify(
        &self,
        object: &Path,
        program: Option<&str>,
        options: &[&str],
    ) -> Result<Vec<Row>, String> {
        let output = Command::new(&self.bpftime)
            .args(["verify", "--json", "--log-level=0"])
            .args(options)
            .args(program.map(|name| format!("--program={name}")))
            .arg(format!("--timeout={}", self.timeout))
            .arg(object)
            .output();
        match output {
            // No JSON: one line says why.
            Ok(output) => serde_json::from_slice(&output.stdout).map_err(|_| {
                String::from_utf8_lossy(&output.stderr)
                    .trim_end()
                    .to_owned()
            }),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Asks the kernel, too.
const BOTH: &[&str] = &["--against=kernel"];

/// The `bpftime` that `BPFTIME_BIN` names or that was built.
fn find_bpftime() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("BPFTIME_BIN") {
        return Ok(named.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace")?;
    let built = root.join("target/release/bpftime");
    ensure!(built.is_file(), "`bpftime` is not built: `make build`");
    Ok(built)
}

/// The kernel's verdicts in the rows of an earlier run.
fn read_known(path: &Path) -> Result<Known> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut known = Known::new();
    for line in text.lines() {
        let row: Row = serde_json::from_str(line)?;
        if let Some(verdict) = row.kernel {
            known
                .entry(row.object)
                .or_default()
                .insert(row.name, verdict);
        }
    }
    Ok(known)
}
