//! `bpftime pull`: a file out of a registry.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use registry::{Kind, Source};

use super::fetching;
use crate::libraries::reason;
use crate::problem::Problem;

/// Get what was pushed to a registry, or is on a web server, as a file
///
/// The file is called as it was when it was pushed, and never overwrites
/// another unless --output names it. Its name is printed.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    fetching: fetching::Options,

    /// Where to write it; `-` is stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// What: REGISTRY/NAME:TAG, REGISTRY/NAME@sha256:DIGEST, or a URL
    #[arg(value_name = "REFERENCE")]
    reference: String,
}

const EXAMPLES: &str = "\
Examples:
  bpftime pull ghcr.io/me/opensnoop:1
  bpftime pull ghcr.io/me/opensnoop:1 -o /tmp/opensnoop.wasm --key me.pub";

/// Fetches the file and writes it.
pub fn run(args: Args) -> Result<(), Problem> {
    let name = args.reference.as_str();
    let source = Source::guess(OsStr::new(name)).map_err(fetching::problem)?;
    if let Source::File(_) | Source::Stdin = source {
        return Err(Problem::new(
            name,
            "is here already",
            "name a reference or a URL",
        ));
    }
    let fetched = fetching::fetch(name, &source, &args.fetching)?;
    if args.output.as_deref() == Some(Path::new("-")) {
        let written = io::stdout().lock().write_all(&fetched.bytes);
        return written.map_err(|error| not_written(Path::new("stdout"), &error));
    }
    let kind = Kind::of(&fetched.bytes);
    let own = fetched.name.or_else(|| last_part(&source));
    let own = own.unwrap_or_else(|| kind.map_or("content", Kind::file_name).to_owned());
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(own));
    registry::write_file(&path, &fetched.bytes, args.output.is_some())
        .map_err(|error| not_written(&path, &error))?;
    super::print(&format!("{}\n", path.display()))
}

fn last_part(source: &Source) -> Option<String> {
    match source {
        Source::Url(url) => registry::safe_name(url.path()),
        _ => None,
    }
}

fn not_written(path: &Path, error: &io::Error) -> Problem {
    let advice = match error.kind() {
        io::ErrorKind::AlreadyExists => "name another by --output, or the same to replace it",
        io::ErrorKind::StorageFull => "make room, or name another place by --output",
        _ => "check where it goes",
    };
    let happened = format!("cannot be written ({})", reason(error));
    Problem::new(path.display(), happened, advice)
}
