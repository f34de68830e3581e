//! `bpftime push`: publishes what can be run in a registry.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use registry::{Form, Parcel};

use super::fetching;
use crate::libraries::reason;
use crate::problem::Problem;

/// Publish a Wasm module, an eBPF object or a package in a registry
///
/// Prints the name by which exactly this file can be had for ever: registry,
/// name and digest. Pushing the same file again changes nothing.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Pack it as an image for container engines, under /app.wasm or the like
    #[arg(long)]
    image: bool,

    /// A note about it, as org.opencontainers.image.licenses=MIT
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,

    /// Speak plain HTTP to the registry, as to those on this machine
    #[arg(long)]
    insecure: bool,

    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where it goes: REGISTRY/NAME:TAG
    #[arg(value_name = "REFERENCE")]
    reference: String,
}

const EXAMPLES: &str = "\
Examples:
  bpftime push opensnoop.wasm ghcr.io/me/opensnoop:1
  bpftime push package.json localhost:5000/tools/runqlat
  bpftime push --image app.wasm ghcr.io/me/app:1        for containerd";

/// What names the file for who pulls it.
const TITLE: &str = "org.opencontainers.image.title";

/// Pushes the file.
pub fn run(args: Args) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        Problem::new(
            args.file.display(),
            format_args!("cannot be read ({})", reason(&error)),
            "name a Wasm module, an eBPF object or a package",
        )
    };
    let bytes = fs::read(&args.file).map_err(failed)?;
    let changed = fs::metadata(&args.file).and_then(|metadata| metadata.modified());
    let mut annotations: std::collections::BTreeMap<_, _> = args.annotation.into_iter().collect();
    let own_name = || {
        let name = args.file.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let name = annotations.remove(TITLE).unwrap_or_else(own_name);
    let parcel = Parcel {
        bytes: &bytes,
        name: &name,
        changed: changed.unwrap_or(SystemTime::UNIX_EPOCH),
        form: if args.image {
            Form::Image
        } else {
            Form::Artifact
        },
        annotations,
    };
    let settings = fetching::plain_settings(args.insecure);
    let pushed = registry::push(&parcel, &args.reference, &settings).map_err(fetching::problem)?;
    super::print(&format!("{}\n", pushed.reference))
}

fn annotation(words: &str) -> Result<(String, String), String> {
    match words.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE is wanted".to_owned()),
    }
}
