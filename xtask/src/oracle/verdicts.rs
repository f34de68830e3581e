//! Asks both verifiers about an object through `bpftime verify --json`. It
//! knows no judgement.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What a verifier said; `bpftime verify --json` documents the fields.
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    pub name: String,
    pub section: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub insns: usize,
    pub bpftime: Verdict,
    pub kernel: Verdict,
}

/// An object's rows, or why it has none.
pub struct Asked {
    pub object: String,
    pub rows: Result<Vec<Row>, String>,
}

/// Where verdicts come from.
pub struct Oracle {
    bpftime: PathBuf,
    timeout: u64,
}

impl Oracle {
    /// By the `bpftime` that was built, or that `BPFTIME_BIN` names.
    pub fn new(timeout: u64) -> Result<Oracle> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the workspace")?;
        let bpftime = std::env::var_os("BPFTIME_BIN")
            .map_or_else(|| root.join("target/release/bpftime"), PathBuf::from);
        ensure!(bpftime.is_file(), "`bpftime` is not built: `make build`");
        Ok(Oracle { bpftime, timeout })
    }

    /// What both say of the programs of `object`.
    pub fn ask(&self, object: &Path) -> Asked {
        let output = Command::new(&self.bpftime)
            .args(["verify", "--against=kernel", "--json", "--log-level=0"])
            .arg(format!("--timeout={}", self.timeout))
            .arg(object)
            .output();
        let rows = match output {
            // No JSON: one line says why.
            Ok(output) => serde_json::from_slice(&output.stdout).map_err(|_| {
                String::from_utf8_lossy(&output.stderr)
                    .trim_end()
                    .to_owned()
            }),
            Err(error) => Err(error.to_string()),
        };
        Asked {
            object: object.display().to_string(),
            rows,
        }
    }
}
