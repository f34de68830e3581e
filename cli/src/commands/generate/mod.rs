//! `bpftime gen`: sources for guests, made from an object: its skeleton, and
//! bindings of its types.
//!
//! Reading order: this file (the command line, what an object holds), `types`
//! (which types, by which names), `layout` (how they are written so that members
//! lie right), `c` and `rust` (the languages), `skeleton`, `strip`.

mod c;
mod layout;
mod rust;
mod skeleton;
pub mod strip;
mod types;

use std::fs;
use std::path::{Path, PathBuf};

use loader::{Opened, Options};
use object::ElfFile;
use object::btf::{Btf, Shape};

use crate::libraries::reason;
use crate::problem::Problem;
use types::Types;

/// Make sources for Wasm guests from an eBPF object
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

const EXAMPLES: &str = "\
Examples:
  bpftime gen skeleton --wasm --types opensnoop.bpf.o > opensnoop.skel.h
  bpftime gen types --wasm opensnoop.bpf.o event > event.h
  bpftime gen types --rust opensnoop.bpf.o > src/types.rs
  bpftime gen header --wasm > libbpf-wasm.h

docs/guests.md shows what to do with them.";

#[derive(clap::Subcommand)]
enum What {
    /// A header with the object in it and functions to open, load and attach it
    Skeleton {
        /// For guests in C
        #[arg(long)]
        wasm: bool,
        /// With its structures, for guests that have no header of their own for them
        #[arg(long)]
        types: bool,
        /// The object file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What the skeleton is called, as bpftool takes it: `name NAME`
        #[arg(value_names = ["name", "NAME"], num_args = 2)]
        name: Vec<String>,
    },
    /// Its structures, laid out for the guest as they are for programs
    Types {
        /// For guests in C
        #[arg(long, required_unless_present = "rust")]
        wasm: bool,
        /// For guests in Rust
        #[arg(long, conflicts_with = "wasm")]
        rust: bool,
        /// The object file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Only these types and what they contain; else those of variables, and
        /// of keys and values of maps
        #[arg(value_name = "TYPE")]
        names: Vec<String>,
    },
    /// The header that skeletons include, libbpf-wasm.h
    Header {
        /// For guests in C
        #[arg(long)]
        wasm: bool,
    },
}

/// What skeletons include.
pub const HEADER: &str = include_str!("../../../../wasm/guest/c/libbpf-wasm.h");

/// Prints what is asked for.
pub fn run(args: &Args) -> Result<(), Problem> {
    let text = match &args.what {
        What::Skeleton { wasm: false, .. } => {
            return Err(Problem::new(
                "gen skeleton",
                "makes skeletons for Wasm guests only",
                "give --wasm, or use bpftool gen skeleton for a native tool",
            ));
        }
        What::Header { .. } => HEADER.to_owned(),
        What::Skeleton {
            types, file, name, ..
        } => {
            let name = match name.as_slice() {
                [] => default_name(file),
                [keyword, name] if keyword == "name" && *name == types::word(name) => name.clone(),
                _ => {
                    return Err(Problem::new(
                        name.join(" "),
                        "does not name a skeleton",
                        "write `name` and a word of C behind the file",
                    ));
                }
            };
            skeleton(file, &read(file)?, name, *types)?
        }
        What::Types {
            rust, file, names, ..
        } => bindings(file, &read(file)?, names, *rust)?,
    };
    super::print(&text)
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    fs::read(file).map_err(|error| {
        Problem::new(
            file.display(),
            format_args!("cannot be read ({})", reason(&error)),
            "name an object file",
        )
    })
}

/// The header with an object in it, and with its structures if `define` asks
/// for them. `name` is a word of C.
///
/// # Errors
/// If it is no eBPF object.
pub fn skeleton(file: &Path, bytes: &[u8], name: String, define: bool) -> Result<String, Problem> {
    // What is no object is said to be none.
    open(file, bytes)?;
    let bytes = &strip::without_debug_info(bytes)?;
    let (opened, btf) = open(file, bytes)?;
    let types = btf.as_ref().map(|btf| Types::new(btf, &[])).transpose();
    let types = types.map_err(|_| no_object(file, "has types without names"))?;
    let object = skeleton::Object {
        name,
        bytes,
        programs: opened.programs().into_iter().map(|p| p.name).collect(),
        maps: btf.as_ref().map_or_else(Vec::new, |btf| maps(btf, bytes)),
    };
    Ok(skeleton::header(&object, types.as_ref(), define))
}

/// What bpftool calls the skeleton of a file.
pub fn default_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".o").unwrap_or(&name);
    let name = types::word(name);
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("_{name}"),
        false => name,
    }
}

fn bindings(file: &Path, bytes: &[u8], names: &[String], rust: bool) -> Result<String, Problem> {
    let (_, btf) = open(file, bytes)?;
    let Some(btf) = btf else {
        return Err(Problem::new(
            file.display(),
            "does not describe its types",
            "compile it with clang -g",
        ));
    };
    let types = Types::new(&btf, names).map_err(|name| {
        Problem::new(
            file.display(),
            format_args!("has no type {name}"),
            "see bpftool btf dump file for those that it has",
        )
    })?;
    let sections = rust && !types.sections().is_empty();
    if types.order.is_empty() && !sections {
        return Err(Problem::new(
            file.display(),
            "has no structure among its variables, keys and values",
            "name types behind it, or declare a global pointer to what its records are",
        ));
    }
    Ok(match rust {
        true => rust::module(&types),
        false => header(file, &types),
    })
}

fn header(file: &Path, types: &Types<'_>) -> String {
    let name = default_name(file);
    let guard = format!("__{}_TYPES_H__", name.to_uppercase());
    format!(
        "/* Made by bpftime gen types --wasm: make it again instead of changing it. */\n\
         #ifndef {guard}\n#define {guard}\n\n\
         #include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>\n\n{}\
         #endif /* {guard} */\n",
        c::definitions(types)
    )
}

fn open(file: &Path, bytes: &[u8]) -> Result<(Opened, Option<Btf>), Problem> {
    let options = Options {
        name: default_name(file),
        btf: None,
    };
    let opened = Opened::read(bytes, &options).map_err(|error| no_object(file, error.what))?;
    let btf = opened.types();
    let btf = btf.map_err(|error| no_object(file, error.what))?;
    Ok((opened, btf))
}

fn no_object(file: &Path, what: impl std::fmt::Display) -> Problem {
    Problem::new(
        file.display(),
        what,
        "compile it with clang -O2 -g -target bpf -c",
    )
}

/// Its maps, and the sections that become maps of variables.
fn maps(btf: &Btf, bytes: &[u8]) -> Vec<skeleton::Map> {
    let mut maps = Vec::new();
    let mut globals = Vec::new();
    for id in 1..=btf.count() {
        let Some(Shape::DataSec { size, vars }) = btf.get(id).map(|ty| &ty.shape) else {
            continue;
        };
        let section = btf.name(id);
        if section == ".maps" {
            maps.extend(vars.iter().map(|var| skeleton::Map {
                name: btf.name(var.ty).to_owned(),
                variables: None,
            }));
        } else if types::is_of_variables(section) && *size > 0 {
            let variables = skeleton::Section {
                ty: id,
                offset: offset(bytes, section, *size as usize),
                size: *size as usize,
            };
            globals.push(skeleton::Map {
                name: section.to_owned(),
                variables: Some(variables),
            });
        }
    }
    maps.extend(globals);
    maps
}

/// Where a section begins in the file; 0 for one that takes no room there.
fn offset(bytes: &[u8], section: &str, size: usize) -> usize {
    let elf = ElfFile::parse(bytes).ok();
    let found = elf.and_then(|elf| elf.section(section));
    match found {
        Some((_, inside)) if inside.len() >= size => {
            inside.as_ptr() as usize - bytes.as_ptr() as usize
        }
        _ => 0,
    }
}
