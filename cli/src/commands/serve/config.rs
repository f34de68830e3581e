//! The service's configuration: programs to start with it, and metrics.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::metrics::spec::Spec;
use super::request::Request;
use crate::libraries::reason;
use crate::problem::Problem;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default)]
    pub programs: Vec<Request>,
    /// For programs of any name, or the one they say.
    #[serde(default)]
    pub metrics: Vec<Spec>,
}

/// Reads it: YAML, of which JSON is a part.
pub fn read(path: &Path) -> Result<Config, Problem> {
    let text = fs::read_to_string(path).map_err(|error| {
        Problem::new(
            path.display(),
            format_args!("cannot be read ({})", reason(&error)),
            "name a configuration",
        )
    })?;
    let config: Result<Config, _> = serde_yaml_ng::from_str(&text);
    let config = config.map_err(|error| wrong(path, &error.to_string()))?;
    for spec in &config.metrics {
        let checked = spec.check();
        checked.map_err(|what| wrong(path, &format!("metric {}: {what}", spec.name)))?;
    }
    Ok(config)
}

fn wrong(path: &Path, what: &str) -> Problem {
    Problem::new(path.display(), what, "see docs/serve.md")
}
