//! A package's story: an object's, in which the package says what options
//! there are, where programs are put and how what they report is shown.
//!
//! Reading order: this file, `arguments` (options that set variables), `places`
//! (where programs are put), `plan` (what is shown how), `show` (records and
//! maps in words).

mod arguments;
mod places;
mod plan;
mod show;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use loader::{Opened, Options};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::utsname::uname;
use package::{Error, Package};

use super::here::{Asked, object_name};
use super::object::{attach_all, follow, leave_out, options, problem, start};
use super::process::Process;
use super::stop;
use crate::libraries::reason;
use crate::problem::Problem;

/// Where the running kernel tells its types.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

pub fn run(asked: &Asked<'_>, bytes: &[u8]) -> Result<(), Problem> {
    let package = parse(asked, bytes)?;
    let traced = Process::of(asked.args.pid)?;
    let meta = &package.meta;
    if meta.debug_verbose {
        loader::speak();
    }
    let mut options = options(asked)?;
    if !meta.bpf_skel.obj_name.is_empty() {
        options.name = object_name(Path::new(&meta.bpf_skel.obj_name));
    }
    // Open until the object is.
    let brought = brought(&options, &package)?;
    if let Some(file) = &brought {
        options.btf = Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into());
    }
    let mut opened = match &package.object {
        Some(object) => Opened::read(object, &options),
        None => Opened::read(&beside(asked)?, &options),
    }
    .map_err(problem)?;
    let btf = opened.types().map_err(problem)?;
    arguments::apply(asked, meta, &mut opened, btf.as_ref())?;
    leave_out(asked, &mut opened)?;
    let mut loaded = opened.load().map_err(problem)?;
    let buffers = show::buffers(meta, &loaded).map_err(problem)?;
    let mut output = show::Shown::new(asked, &package, &loaded, btf)?;
    let usual = places::usual(meta)?;
    attach_all(asked, &mut loaded, usual)?;
    stop::listen();
    follow(asked, &loaded, buffers, &mut output, start(asked)?, traced)
}

/// The object of a package.
pub fn object(asked: &Asked<'_>, bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    match parse(asked, bytes)?.object {
        Some(object) => Ok(object),
        None => beside(asked),
    }
}

fn parse(asked: &Asked<'_>, bytes: &[u8]) -> Result<Package, Problem> {
    Package::parse(bytes).map_err(|error| refused(asked, &error))
}

fn refused(asked: &Asked<'_>, error: &Error) -> Problem {
    let advice = match error {
        Error::Format(_) => "name a package, an object file or a Wasm module",
        Error::TooLarge(_) => "take the object out and run that",
        Error::NoPackage => "make it with ecc -b or bpftime build",
        _ => "get it again, or build it again",
    };
    Problem::new(asked.file.display(), error, advice)
}

/// The object that a skeleton belongs to: `tool.bpf.o` beside `tool.skel.json`.
fn beside(asked: &Asked<'_>) -> Result<Vec<u8>, Problem> {
    let name = asked.file.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').next().unwrap_or("");
    let path = asked.file.with_file_name(format!("{stem}.bpf.o"));
    fs::read(&path).map_err(|error| {
        Problem::new(
            asked.file.display(),
            format_args!(
                "is a skeleton without its object, and {} cannot be read ({})",
                path.display(),
                reason(&error)
            ),
            "put the object there, or run the package",
        )
    })
}

/// The types that the package brought for the running kernel, where that tells
/// none and the user names none.
fn brought(options: &Options, package: &Package) -> Result<Option<File>, Problem> {
    if options.btf.is_some() || Path::new(KERNEL_TYPES).exists() {
        return Ok(None);
    }
    let release = uname().map(|names| names.release().to_string_lossy().into_owned());
    let types = release.map(|release| package.kernel(&release));
    let file = types.map_err(io::Error::from).and_then(|types| {
        let Some(types) = types else { return Ok(None) };
        let mut file = File::from(memfd_create("kernel-types", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&types.bytes)?;
        Ok(Some(file))
    });
    file.map_err(|error| {
        Problem::new(
            "the package's types of the kernel",
            format_args!("cannot be unpacked ({})", reason(&error)),
            "free some memory, or name types by --btf FILE",
        )
    })
}
