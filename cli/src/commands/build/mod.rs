//! `bpftime build`: makes an eBPF object and a package of a C source, with the
//! system's clang and headers of our own.
//!
//! Reading order: this file (the command line and the steps), `headers` and
//! `vmlinux` (what sources include), `clang`, `output` (files whole or not at
//! all). What comments in a source mean is in the crate `package`.

mod clang;
mod headers;
pub mod output;
mod vmlinux;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use loader::Opened;
use package::write::{self, DUMMY, MapOf, Parts, Program};

use super::generate;
use crate::libraries::reason;
use crate::problem::Problem;
use headers::Headers;

/// Build an eBPF object and its package from a C source
///
/// Makes SOURCE.bpf.o and package.json beside the source; `bpftime run` takes
/// either. clang is the system's; libbpf's headers and vmlinux.h are supplied.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The source, such as tool.bpf.c
    #[arg(value_name = "SOURCE")]
    source: PathBuf,

    /// A header whose structures are what the programs report
    #[arg(value_name = "HEADER")]
    header: Option<PathBuf>,

    /// Where the files go; beside the source if not given
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,

    /// A directory of headers, behind the source's own and before ours
    #[arg(short = 'I', long = "include", value_name = "DIR")]
    include: Vec<PathBuf>,

    /// A macro
    #[arg(short = 'D', long = "define", value_name = "NAME[=VALUE]")]
    define: Vec<OsString>,

    /// Types of the kernel for vmlinux.h, in place of the running one's
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,

    /// The compiler
    #[arg(long, value_name = "COMMAND")]
    clang: Option<PathBuf>,

    /// Make the object only
    #[arg(long, short)]
    no_package: bool,

    /// Make what Wasm guests in C include, in place of a package: SOURCE.skel.h
    /// and libbpf-wasm.h
    #[arg(long, conflicts_with = "no_package")]
    wasm: bool,

    /// Say how the compiler is called
    #[arg(long, short)]
    verbose: bool,

    /// Further arguments of the compiler
    #[arg(last = true, value_name = "CLANG ARGUMENTS")]
    behind: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  bpftime build opensnoop.bpf.c opensnoop.h
  bpftime build tool.bpf.c -o out -D LIMIT=8 -- -Wextra
  bpftime run package.json";

/// What eunomia's tools call a package.
const PACKAGE: &str = "package.json";
/// What skeletons include.
const GUEST_HEADER: &str = "libbpf-wasm.h";

pub fn run(args: &Args) -> Result<(), Problem> {
    // What goes wrong is told in our words.
    libbpf_rs::set_print(None);
    let source = read(&args.source, "name a C source")?;
    let header = args.header.as_deref();
    let header = header.map(|path| read(path, "name a header, or none"));
    let exported = write::exported(&source, header.transpose()?.as_deref());
    let name = Name::of(&args.source)?;

    let clang = clang::find(args.clang.as_deref())?;
    let headers = Headers::unpack(args.btf.as_deref())?;
    let text = with_dummies(&args.source, &source, &exported);
    let to_compile = clang::Source {
        path: &args.source,
        text: &text,
    };
    let words = clang::Words {
        include: &args.include,
        define: &args.define,
        behind: &args.behind,
        verbose: args.verbose,
    };
    let object = clang::compile(&clang, &to_compile, &headers, &words)?;
    let object = generate::strip::without_debug_info(&object)?;

    let dir = args.output.as_deref().or(args.source.parent());
    let dir = dir.unwrap_or(Path::new(""));
    if !dir.as_os_str().is_empty() {
        fs::create_dir_all(dir).map_err(|error| output::refused(dir, &error))?;
    }
    let object_path = dir.join(format!("{}.bpf.o", name.stem));
    let mut files = vec![(object_path.clone(), object.clone())];
    if args.wasm {
        let skeleton = generate::skeleton(&object_path, &object, name.object.clone(), false)?;
        let skeleton_path = dir.join(format!("{}.skel.h", name.stem));
        files.push((skeleton_path, skeleton.into_bytes()));
        files.push((dir.join(GUEST_HEADER), generate::HEADER.into()));
    } else if !args.no_package {
        let package = package(args, &source, &name, &object, &exported)?;
        files.push((dir.join(PACKAGE), package.into_bytes()));
    }
    output::write(&files)?;
    let mut said = String::new();
    for (path, _) in &files {
        let _ = writeln!(said, "{}", path.display());
    }
    super::print(&said)
}

/// What a source's files and object are called.
struct Name {
    /// `tool` of `tool.bpf.c`.
    stem: String,
    /// `tool_bpf`.
    object: String,
}

impl Name {
    fn of(source: &Path) -> Result<Name, Problem> {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let Some(stem) = name.strip_suffix(".c") else {
            return Err(Problem::new(
                source.display(),
                "is no C source by its name",
                "name a file that ends in .bpf.c",
            ));
        };
        let stem = stem.strip_suffix(".bpf").unwrap_or(stem);
        Ok(Name {
            stem: stem.to_owned(),
            object: generate::default_name(Path::new(&format!("{stem}.bpf.o"))),
        })
    }
}

fn read(path: &Path, advice: &str) -> Result<String, Problem> {
    let refuse = |what: String| Problem::new(path.display(), what, advice);
    let bytes = fs::read(path);
    let bytes = bytes.map_err(|error| refuse(format!("cannot be read ({})", reason(&error))))?;
    // Comments may be in any encoding.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The source and behind it a pointer to each exported structure: compilers
/// tell the types of what is used.
fn with_dummies(path: &Path, source: &str, exported: &[String]) -> String {
    let path = path.to_string_lossy();
    let path = path.replace('\\', "\\\\").replace('"', "\\\"");
    let mut text = format!("# 1 \"{path}\"\n{source}\n# 1 \"<exported>\"\n");
    for name in exported {
        let _ = writeln!(
            text,
            "const volatile struct {name} *{DUMMY}{name}_ptr __attribute__((unused));"
        );
    }
    text
}

/// The package's text; what is odd in the source goes to stderr.
fn package(
    args: &Args,
    source: &str,
    name: &Name,
    object: &[u8],
    exported: &[String],
) -> Result<String, Problem> {
    let unusable = |error: loader::Error| {
        let said = error.messages.first().map_or("", String::as_str);
        Problem::new(
            args.source.display(),
            format_args!("its object cannot be opened: {} {said}", error.what),
            "correct the source, or make the object only (--no-package)",
        )
    };
    let options = loader::Options {
        name: name.object.clone(),
        ..Default::default()
    };
    let opened = Opened::read(object, &options).map_err(unusable)?;
    let types = opened.types().map_err(unusable)?;
    let programs = opened.programs().into_iter().map(|program| Program {
        name: program.name,
        section: program.section,
    });
    let maps = opened.maps().into_iter().map(|map| MapOf {
        ident: match map.is_section {
            true => ident(&map.name),
            false => map.name.clone(),
        },
        mapped: map.is_section && map.is_mappable,
        name: map.name,
    });
    let parts = Parts {
        name: &name.object,
        programs: &programs.collect::<Vec<_>>(),
        maps: &maps.collect::<Vec<_>>(),
        btf: types.as_ref(),
        source,
        exported,
        version: env!("CARGO_PKG_VERSION"),
    };
    let at = |line: u32| format!("{}:{line}", args.source.display());
    let (meta, warnings) = write::meta(&parts)
        .map_err(|error| Problem::new(at(error.line), error.text, error.advice))?;
    for warning in warnings {
        // Nobody is left to tell if stderr is gone.
        let _ = writeln!(
            io::stderr(),
            "bpftime: {}: {}",
            at(warning.line),
            warning.text
        );
    }
    Ok(write::package(object, &meta))
}

/// `rodata` of `tool_bpf.rodata`.
fn ident(name: &str) -> String {
    let sections = [".data", ".rodata", ".bss", ".kconfig"];
    let at = sections.iter().find_map(|section| name.find(section));
    name[at.map_or(0, |at| at + 1)..].replace('.', "_")
}
