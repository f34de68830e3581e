//! What is to be run, as it is asked for: over HTTP or in the service's
//! configuration. It knows no processes.

use std::path::Path;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};

use super::answer::Refusal;
use super::metrics::spec::Spec;

/// Characters of a name.
const NAME: usize = 64;
/// How often maps are printed for metrics, in seconds, if nobody says.
const INTERVAL: f64 = 5.0;

/// With padding or without: the peers' clients send none.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// When a program that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    Never,
    OnFailure,
    Always,
}

/// A program to run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A name that no other running program has.
    #[serde(default)]
    pub name: Option<String>,
    /// What `bpftime run` takes: a path, a URL, an image.
    #[serde(default)]
    pub source: Option<String>,
    /// In its place: the file's bytes in base64.
    #[serde(default)]
    pub data: Option<String>,
    /// Options of `bpftime run`.
    #[serde(default)]
    pub options: Vec<String>,
    /// Words behind the source.
    #[serde(default)]
    pub args: Vec<String>,
    /// How often maps are printed, in seconds.
    #[serde(default)]
    pub interval: Option<f64>,
    /// Whether output is JSON, which metrics need.
    #[serde(default)]
    pub json: Option<bool>,
    #[serde(default)]
    pub restart: Restart,
    #[serde(default)]
    pub metrics: Vec<Spec>,
}

/// Where the bytes are.
#[derive(Debug, Clone)]
pub enum Source {
    Named(String),
    Bytes(Vec<u8>),
}

impl Request {
    /// Looks for what makes no sense; says where the program is.
    pub fn check(&self) -> Result<Source, Refusal> {
        if let Some(name) = &self.name {
            check_name(name)?;
        }
        if self
            .interval
            .is_some_and(|seconds| !(0.01..1e9).contains(&seconds))
        {
            return Err(Refusal::bad(
                "interval",
                "no time to wait",
                "give seconds, at least 0.01",
            ));
        }
        if self
            .options
            .iter()
            .chain(&self.args)
            .any(|word| word.contains('\0'))
        {
            return Err(Refusal::bad("args", "contain a NUL byte", "remove it"));
        }
        match (&self.source, &self.data) {
            (Some(source), None) => {
                let wrong = source.is_empty() || source.starts_with('-') || source.contains('\0');
                if wrong {
                    return Err(Refusal::bad(
                        format_args!("source {source:?}"),
                        "names nothing to run",
                        "give a path, a URL or an image",
                    ));
                }
                Ok(Source::Named(source.clone()))
            }
            (None, Some(data)) => decode(data).map(Source::Bytes),
            _ => Err(Refusal::bad(
                "program",
                "neither or both of `source` and `data` are given",
                "give one of them",
            )),
        }
    }

    /// The words behind `bpftime run`.
    pub fn words(&self, source: &Path, sampled: bool) -> Vec<std::ffi::OsString> {
        let mut words = Vec::new();
        if self.json.unwrap_or(true) {
            words.push("--json".into());
        }
        if let Some(seconds) = self.interval.or(sampled.then_some(INTERVAL)) {
            words.push("--interval".into());
            words.push(seconds.to_string().into());
        }
        words.extend(self.options.iter().map(Into::into));
        words.push(source.into());
        words.extend(self.args.iter().map(Into::into));
        words
    }
}

/// Bytes from base64.
pub fn decode(data: &str) -> Result<Vec<u8>, Refusal> {
    let bytes = BASE64.decode(data);
    bytes.map_err(|error| {
        Refusal::bad(
            "program",
            format_args!("not base64 ({error})"),
            "encode the file's bytes",
        )
    })
}

/// Names stand in paths and labels.
pub fn check_name(name: &str) -> Result<(), Refusal> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let fine = name.len() <= NAME && name.starts_with(|c: char| c.is_ascii_alphabetic());
    match fine && name.chars().all(known) {
        true => Ok(()),
        false => Err(Refusal::bad(
            format_args!("name {name:?}"),
            "no program may have it",
            "use a letter, then up to 63 letters, digits and _ - .",
        )),
    }
}

/// Bytes to base64.
pub fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}
