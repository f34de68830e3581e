//! From the word that a user typed to bytes. What is not a file is fetched
//! before this command becomes itself with the syscall server in it, and comes
//! along as a file in memory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use registry::{Source, Trouble};

use super::super::fetching;
use super::{Args, file};
use crate::libraries::reason;
use crate::problem::Problem;

/// Options for where bytes come from.
// The derived group would be called like every other `Options`.
#[derive(clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    fetching: fetching::Options,

    /// Where the bytes are, if they were fetched already
    #[arg(long, hide = true, value_name = "FD")]
    content: Option<RawFd>,
}

/// Fetches what is not a file; the options by which the one that this process
/// becomes finds it.
pub fn carry(args: &Args) -> Result<Vec<OsString>, Problem> {
    let word = word(args)?;
    let source = guess(word)?;
    if let Source::File(_) = source {
        return Ok(Vec::new());
    }
    let bytes = fetch(word, &source, args)?;
    let kept = keep(&bytes).map_err(|error| unusable(word, &error))?;
    let fd = kept.into_raw_fd().to_string();
    Ok(vec!["--content".into(), fd.into()])
}

/// A file in memory, which the next program inherits.
fn keep(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("bpftime-source", MFdFlags::empty())?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// The bytes, wherever they are now.
pub fn bytes(args: &Args) -> Result<Vec<u8>, Problem> {
    let word = word(args)?;
    if let Some(fd) = args.source.content {
        // SAFETY: the number was given to us by `carry`, which left the file open for us alone.
        let mut content = unsafe { File::from_raw_fd(fd) };
        let mut bytes = Vec::new();
        let read = content.read_to_end(&mut bytes);
        return read.map(|_| bytes).map_err(|error| unusable(word, &error));
    }
    match guess(word)? {
        Source::File(path) if args.source.fetching.needs_no_key() => file::read(&path),
        source => fetch(word, &source, args),
    }
}

/// The bytes of a file that can be read twice; `None` of anything else.
pub fn of_file(args: &Args) -> Option<Vec<u8>> {
    match guess(word(args).ok()?).ok()? {
        Source::File(path) if path.is_file() && args.source.fetching.needs_no_key() => {
            file::read(&path).ok()
        }
        _ => None,
    }
}

/// What the word means. What looks like a file and is none is left to who reads files.
fn guess(word: &OsStr) -> Result<Source, Problem> {
    match Source::guess(word) {
        Err(error) if matches!(error.trouble, Trouble::NoFile) => Ok(Source::File(word.into())),
        guessed => guessed.map_err(fetching::problem),
    }
}

fn fetch(word: &OsStr, source: &Source, args: &Args) -> Result<Vec<u8>, Problem> {
    let name = word.to_string_lossy();
    fetching::fetch(&name, source, &args.source.fetching).map(|fetched| fetched.bytes)
}

fn word(args: &Args) -> Result<&OsStr, Problem> {
    let first = args.command.first().map(OsString::as_os_str);
    first.ok_or_else(|| Problem::new("no file", "nothing to run", "see bpftime run --help"))
}

fn unusable(word: &OsStr, error: &io::Error) -> Problem {
    Problem::new(
        word.to_string_lossy(),
        format_args!("cannot be kept in memory ({})", reason(error)),
        "check how much is free",
    )
}
