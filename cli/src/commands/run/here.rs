//! What happens where bpf(2) is answered: the file is read and run by its kind.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Args, object};
use crate::libraries::reason;
use crate::problem::Problem;

/// `EM_BPF` (include/uapi/linux/elf-em.h).
const MACHINE_BPF: u16 = 247;
/// Where an ELF header has its machine.
const MACHINE_AT: usize = 18;

/// What the user typed behind the options.
pub struct Asked<'a> {
    pub args: &'a Args,
    /// The file as it was named.
    pub file: &'a Path,
    /// Options for global variables.
    pub settings: Vec<OsString>,
    /// The application and its arguments; empty for none.
    pub app: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<(), Problem> {
    let (file, behind) = args
        .command
        .split_first()
        .ok_or_else(|| Problem::new("no file", "nothing to run", "see bpftime run --help"))?;
    let mut settings = behind.to_vec();
    let mut app = Vec::new();
    if let Some(dashes) = settings.iter().position(|word| word == "--") {
        app = settings.split_off(dashes + 1);
        settings.pop();
    }
    let file = Path::new(file);
    let bytes = fs::read(file).map_err(|error| {
        Problem::new(
            file.display(),
            format_args!("cannot be read ({})", reason(&error)),
            "name an object file, as clang -target bpf makes it",
        )
    })?;
    check(file, &bytes)?;
    let asked = Asked {
        args,
        file,
        settings,
        app,
    };
    object::run(&asked, &bytes)
}

/// Refuses what is not an object in words that say what it is instead.
fn check(file: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let machine = bytes.get(MACHINE_AT..MACHINE_AT + 2);
    let machine = machine
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_le_bytes);
    let (happened, advice) = match (bytes.starts_with(b"\x7fELF"), machine) {
        (true, Some(MACHINE_BPF)) => return Ok(()),
        (true, _) => (
            "is a program or library of this machine, not an eBPF object",
            "run a tool by bpftime load, a program to trace by bpftime start",
        ),
        _ => (
            "is no eBPF object",
            "compile it with clang -O2 -g -target bpf -c",
        ),
    };
    Err(Problem::new(file.display(), happened, advice))
}

/// What libbpf calls an object of this file.
pub fn object_name(file: &Path) -> String {
    let name = PathBuf::from(file.file_name().unwrap_or_default());
    let name = name.to_string_lossy();
    let name = name.trim_end_matches(".o").trim_end_matches(".bpf");
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(word).collect()
}
