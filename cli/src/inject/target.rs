//! What /proc and the files on disk say about a process, before it is
//! touched: whether the agent can go in, and where the functions are that
//! must be called for it. It stops no thread.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use object::{ElfFile, Symbol, SymbolKind};

use super::arch::{self, Registers};
use super::guest;
use super::maps::{self, Mapping};
use super::needs;
use super::permission::{self, no_access};
use super::slot::{self, Slot};
use crate::elf_head::{Head, is_musl};
use crate::libraries::Library;
use crate::problem::Problem;

/// Lets `__libc_dlopen_mode` know that it is not libc that calls.
const RTLD_DLOPEN: u64 = 0x8000_0000;

/// A function that loads a library.
#[derive(Debug, Clone, Copy)]
pub struct Dlopen {
    pub address: u64,
    pub flags: u64,
}

/// A process that the agent can go into.
#[derive(Debug)]
pub struct Target {
    pub pid: Pid,
    /// It must be handed what others open.
    pub is_guest: bool,
    /// Its filters for system calls are still to be looked at.
    pub is_sandboxed: bool,
    pub dlopen: Dlopen,
    pub dlerror: Option<u64>,
    /// Address of the calling thread's `errno`, when called.
    pub errno_location: u64,
    /// Where an errand's code may lie.
    pub slots: Vec<Slot>,
    /// The mappings that all this rests on.
    text: Vec<Mapping>,
    /// Code that must not be interrupted: C library, loader, allocators.
    careful: Vec<Range<u64>>,
    loader: Vec<Range<u64>>,
    own_allocator: OnceCell<bool>,
}

impl Target {
    /// Looks at the process `pid` with the agent in the file `library` in
    /// mind.
    pub fn inspect(pid: Pid, library: &Path, sessions: &Path) -> Result<Self, Problem> {
        permission::check(pid)?;
        // What is missing in one that has ended is no news.
        Self::look(pid, library, sessions).map_err(|problem| {
            if permission::has_ended(pid) {
                permission::ended(pid)
            } else {
                problem
            }
        })
    }

    fn look(pid: Pid, library: &Path, sessions: &Path) -> Result<Self, Problem> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let exe = proc.join("exe");
        let head = File::open(exe).and_then(|file| Head::read(&file));
        match head.map_err(|error| no_access(pid, &error))? {
            Head::Bits32 => {
                return Err(Problem::new(
                    pid,
                    "a 32-bit process",
                    "use a 64-bit (x86-64) build of it",
                ));
            }
            Head::Program {
                interpreter: Some(loader),
            } if is_musl(&loader) => {
                return Err(Problem::new(
                    pid,
                    "runs on musl libc",
                    "use a build of it for glibc",
                ));
            }
            _ => {}
        }
        let mappings = maps::read(pid).map_err(|error| no_access(pid, &error))?;
        let libc = find_libc(pid, &mappings)?;
        check_library(pid, &mappings, library)?;
        let is_guest = guest::is_one(pid, library, sessions);
        if is_guest {
            guest::check(pid)?;
        }
        let bytes = libc.file.as_deref().and_then(|file| fs::read(file).ok());
        let bytes = bytes.ok_or_else(|| {
            Problem::new(
                pid,
                format_args!("its C library {} cannot be read", libc.path.display()),
                "restart it: the file was replaced since it started",
            )
        })?;
        let unknown = || {
            Problem::new(
                pid,
                format_args!("its C library {} is none we know", libc.path.display()),
                "start it with bpftime start instead",
            )
        };
        let elf = ElfFile::parse(&bytes).map_err(|_| unknown())?;
        needs::check(pid, &bytes, &mappings)?;
        // One pass: libc has thousands of symbols.
        let functions: HashMap<&str, Symbol<'_>> = elf
            .symbols()
            .filter(|symbol| symbol.kind == SymbolKind::Function)
            .map(|symbol| (symbol.name, symbol))
            .collect();
        let address = |name: &str| functions.get(name).map(|symbol| libc.base + symbol.address);
        // Before glibc 2.34 dlopen was in a library that need not be loaded.
        let dlopen = match address("dlopen") {
            Some(address) => Dlopen {
                address,
                flags: (libc::RTLD_NOW | libc::RTLD_LOCAL) as u64,
            },
            None => Dlopen {
                address: address("__libc_dlopen_mode").ok_or_else(unknown)?,
                flags: libc::RTLD_NOW as u64 | RTLD_DLOPEN,
            },
        };
        let code = |wanted: &dyn Fn(&Path) -> bool| {
            let ranges = mappings.iter().filter(|mapping| mapping.executable);
            let ranges = ranges.filter(|mapping| mapping.path.as_deref().is_some_and(wanted));
            ranges.map(|mapping| mapping.range.clone()).collect()
        };
        let slots = slot::all(pid, &mappings);
        let needed = |mapping: &&Mapping| {
            let mut points = slots.iter().map(Slot::start).chain([dlopen.address]);
            points.any(|point| mapping.range.contains(&point))
        };
        let text = mappings.iter().filter(needed).cloned().collect();
        Ok(Self {
            pid,
            is_guest,
            is_sandboxed: permission::is_sandboxed(pid),
            dlopen,
            dlerror: address("dlerror"),
            errno_location: address("__errno_location").ok_or_else(unknown)?,
            slots,
            text,
            careful: code(&|path| path == libc.path || is_loader(path) || is_allocator(path)),
            loader: code(&is_loader),
            own_allocator: OnceCell::new(),
        })
    }

    /// Whether `address` is in code that may hold a lock we need.
    pub fn is_careful(&self, address: u64) -> bool {
        self.careful.iter().any(|range| range.contains(&address))
            || self.slots.iter().any(|slot| slot.contains(address))
    }

    /// Whether everything is still where it was: the process may have become
    /// another program since. It cannot while a thread of it is held.
    pub fn is_the_same(&self) -> bool {
        maps::read(self.pid).is_ok_and(|now| self.text.iter().all(|then| now.contains(then)))
    }

    /// Whether the thread `tid` is on an errand that nobody watches.
    pub fn is_out(&self, tid: Pid, registers: &Registers) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| {
            slot.owner() == Some(tid.as_raw())
                && slot.is_out(arch::instruction(registers), arch::stack(registers))
        })
    }

    /// Whether `address` is in the dynamic loader.
    pub fn is_loader(&self, address: u64) -> bool {
        self.loader.iter().any(|range| range.contains(&address))
    }

    /// Whether the program brings its own malloc, somewhere in its code.
    pub fn has_own_allocator(&self) -> bool {
        *self.own_allocator.get_or_init(|| {
            let exe = fs::read(format!("/proc/{}/exe", self.pid));
            // Not readable means not known to be safe.
            exe.map_or(true, |bytes| symbol(&bytes, "malloc").is_some())
        })
    }
}

/// Address of the function `name` in an ELF file, from its load address.
pub fn symbol(elf: &[u8], name: &str) -> Option<u64> {
    ElfFile::parse(elf).ok()?.function_address(name)
}

struct Module {
    path: PathBuf,
    /// Where it is for us.
    file: Option<PathBuf>,
    base: u64,
}

/// Whether the program is one for glibc's dynamic loader.
fn wants_loader(pid: Pid) -> bool {
    let exe = fs::read(format!("/proc/{pid}/exe"));
    exe.is_ok_and(|bytes| {
        let elf = ElfFile::parse(&bytes).ok();
        elf.and_then(|elf| elf.interpreter().map(|path| path.contains("ld-linux")))
            .unwrap_or(false)
    })
}

fn find_libc(pid: Pid, mappings: &[Mapping]) -> Result<Module, Problem> {
    let named = |prefix: &'static [u8]| {
        mappings.iter().find(move |mapping| {
            mapping
                .file_name()
                .is_some_and(|name| name.starts_with(prefix))
        })
    };
    // libc-2.31.so before 2.34; `(deleted)` after an upgrade.
    let Some(libc) = named(b"libc.so.6").or_else(|| named(b"libc-2.")) else {
        // The loader is mapped a little later than the program.
        return Err(if named(b"ld-linux").is_some() || wants_loader(pid) {
            Problem::new(pid, "has not loaded the C library yet", "try again")
        } else {
            Problem::new(
                pid,
                "statically linked: nothing in it could load the agent",
                "use a dynamically linked build of it",
            )
        });
    };
    let path = libc.path.clone().unwrap_or_default();
    if path.as_os_str().as_bytes().ends_with(b" (deleted)") {
        return Err(Problem::new(
            pid,
            "its C library was replaced on disk since it started",
            "restart it",
        ));
    }
    Ok(Module {
        path,
        file: file_of(pid, libc),
        base: libc.range.start,
    })
}

fn is_loader(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"ld-"))
}

/// jemalloc, tcmalloc, mimalloc and the like, by their usual names.
fn is_allocator(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().contains("malloc"))
}

/// Where a file of the process is for us.
pub fn in_its_root(pid: Pid, path: &Path) -> PathBuf {
    let mut rooted = PathBuf::from(format!("/proc/{pid}/root"));
    rooted.extend(path.components().skip(1));
    rooted
}

/// Where the file of a mapping is for us. Its path is what we read in
/// /proc/PID/maps: from the root of the process, or, if that is a directory
/// below ours, from ours.
pub fn file_of(pid: Pid, mapping: &Mapping) -> Option<PathBuf> {
    let path = mapping.path.as_deref()?;
    let paths = [in_its_root(pid, path), path.to_owned()];
    let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.ino() == mapping.inode);
    paths.into_iter().find(is_it)
}

/// No other agent may be there.
fn check_library(pid: Pid, mappings: &[Mapping], library: &Path) -> Result<(), Problem> {
    let other = mappings.iter().find(|mapping| {
        mapping.file_name() == Some(Library::Agent.file_name().as_bytes())
            && mapping.path.as_deref() != Some(library)
    });
    if let Some(Mapping {
        path: Some(other), ..
    }) = other
    {
        return Err(Problem::new(
            pid,
            format_args!("has the agent of another bpftime ({})", other.display()),
            "use that bpftime, or restart the process",
        ));
    }
    Ok(())
}
