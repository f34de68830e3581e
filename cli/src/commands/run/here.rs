//! What happens where bpf(2) is answered: the file is read and run by its kind.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ::package::Package;

use super::{Args, explain, object, package, source, wasm};
use crate::problem::Problem;

/// `EM_BPF` (include/uapi/linux/elf-em.h).
pub const MACHINE_BPF: u16 = 247;
/// Where an ELF header has its machine.
const MACHINE_AT: usize = 18;

/// What the user typed behind the options.
pub struct Asked<'a> {
    pub args: &'a Args,
    /// The file as it was named.
    pub file: &'a Path,
    /// All behind it.
    pub behind: &'a [OsString],
}

impl Asked<'_> {
    /// Options for an object's variables, which end at `--`.
    pub fn settings(&self) -> &[OsString] {
        self.parts().0
    }

    /// The application to trace and its arguments, behind `--`; empty for none.
    pub fn app(&self) -> &[OsString] {
        self.parts().1
    }

    fn parts(&self) -> (&[OsString], &[OsString]) {
        let dashes = self.behind.iter().position(|word| word == "--");
        match dashes {
            Some(at) => (&self.behind[..at], &self.behind[at + 1..]),
            None => (self.behind, &[]),
        }
    }
}

pub fn run(args: &Args) -> Result<(), Problem> {
    let (file, behind) = args
        .command
        .split_first()
        .ok_or_else(|| Problem::new("no file", "nothing to run", "see bpftime run --help"))?;
    let file = Path::new(file);
    let bytes = source::bytes(args)?;
    if args.verbose {
        loader::speak();
    }
    let asked = Asked { args, file, behind };
    let kind = kind(&bytes);
    if args.explain {
        return match kind {
            Kind::Object => explain::run(&asked, &[bytes]),
            Kind::Module => explain::run(&asked, &explain::objects_within(file, &bytes)?),
            Kind::Package => explain::run(&asked, &[package::object(&asked, &bytes)?]),
            kind => Err(refused(file, &kind)),
        };
    }
    match kind {
        Kind::Object => object::run(&asked, &bytes),
        Kind::Module => wasm::run(&asked, &bytes),
        Kind::Package => package::run(&asked, &bytes),
        kind => Err(refused(file, &kind)),
    }
}

/// Why what the file is cannot be run.
fn refused(file: &Path, kind: &Kind) -> Problem {
    let (what, advice) = match kind {
        Kind::Native => (
            "is a program or library of this machine, not an eBPF object",
            "run a tool by bpftime load, a program to trace by bpftime start",
        ),
        Kind::BigEndian => (
            "is an eBPF object for big-endian machines",
            "compile it with clang -O2 -g -target bpfel -c",
        ),
        _ => (
            "is neither an eBPF object, a package nor a Wasm module",
            "compile it with clang -O2 -g -target bpf -c",
        ),
    };
    Problem::new(file.display(), what, advice)
}

/// What a file's bytes are.
enum Kind {
    Object,
    Module,
    Package,
    Native,
    BigEndian,
    Unknown,
}

/// Whether the bytes are an object that can be run.
pub fn is_object(bytes: &[u8]) -> bool {
    matches!(kind(bytes), Kind::Object)
}

fn kind(bytes: &[u8]) -> Kind {
    let machine = bytes.get(MACHINE_AT..MACHINE_AT + 2);
    match (bytes.get(..4), machine) {
        (Some(b"\x7fELF"), Some(machine)) if machine == MACHINE_BPF.to_le_bytes() => Kind::Object,
        (Some(b"\x7fELF"), Some(machine)) if machine == MACHINE_BPF.to_be_bytes() => {
            Kind::BigEndian
        }
        (Some(b"\x7fELF"), _) => Kind::Native,
        (Some(b"\0asm"), _) => Kind::Module,
        _ if Package::is_meant(bytes) => Kind::Package,
        _ => Kind::Unknown,
    }
}

/// What libbpf calls an object of this file.
pub fn object_name(file: &Path) -> String {
    let name = PathBuf::from(file.file_name().unwrap_or_default());
    let name = name.to_string_lossy();
    let name = name.trim_end_matches(".o").trim_end_matches(".bpf");
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    name.chars().map(word).collect()
}
