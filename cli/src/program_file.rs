//! Whether a file can be started with a library preloaded, told from its
//! first bytes before anything runs. It knows nothing of the libraries.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{AccessFlags, access, getgid, getuid};

use crate::elf_head::{Head, is_musl, read_at};
use crate::problem::{CANNOT_RUN, NOT_FOUND, Problem};

/// Interpreters of interpreters that the kernel follows (`exec_binprm`,
/// fs/exec.c).
const MAX_INTERPRETERS: u32 = 5;
/// Bytes of a file that the kernel reads to find out what it is.
const BINPRM_BUF_SIZE: usize = 256;

/// Finds what `name` means as execvp(3) does: through PATH unless it has a
/// slash.
pub fn resolve(name: &OsStr) -> Result<PathBuf, Problem> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/bin:/usr/bin"));
    let mut denied = None;
    for dir in std::env::split_paths(&path) {
        let candidate = if dir.as_os_str().is_empty() {
            Path::new(".").join(name)
        } else {
            dir.join(name)
        };
        if candidate.is_file() {
            if access(&candidate, AccessFlags::X_OK).is_ok() {
                return Ok(candidate);
            }
            denied.get_or_insert(candidate);
        }
    }
    match denied {
        Some(candidate) => Ok(candidate),
        None => Err(Problem::new(
            name.display(),
            "command not found",
            "check the spelling, or give the program's path",
        )
        .with_status(NOT_FOUND)),
    }
}

/// How a program that can be started can be reached.
pub enum Reach {
    /// By a preloaded library.
    Preload,
    /// By its system calls alone.
    Calls {
        /// Why nothing can be preloaded.
        why: Problem,
        /// Its own loader would try, and fail.
        has_loader: bool,
    },
}

/// How the program at `path` can be reached, or why it cannot be started.
/// Scripts are followed to their interpreter.
pub fn check(path: &Path) -> Result<Reach, Problem> {
    let mut current = path.to_owned();
    for _ in 0..=MAX_INTERPRETERS {
        match check_one(&current, path)? {
            Found::Program(reach) => return Ok(reach),
            Found::Script(interpreter) => current = interpreter,
        }
    }
    Err(cannot(
        path,
        "its interpreters are scripts themselves, too many of them",
        "name the program itself",
    ))
}

fn cannot(
    path: &Path,
    happened: impl std::fmt::Display,
    advice: impl std::fmt::Display,
) -> Problem {
    Problem::new(path.display(), happened, advice).with_status(CANNOT_RUN)
}

enum Found {
    Script(PathBuf),
    Program(Reach),
}

/// Checks one file of the chain that starts at `script`.
fn check_one(path: &Path, script: &Path) -> Result<Found, Problem> {
    let file = open(path, script)?;
    let meta = file.metadata().map_err(|error| unreadable(path, &error))?;
    if meta.is_dir() {
        return Err(cannot(path, "is a directory", "name a program"));
    }
    if access(path, AccessFlags::X_OK).is_err() {
        return Err(cannot(
            path,
            "not executable",
            format_args!(
                "make it so (chmod +x {}) or name another program",
                path.display()
            ),
        ));
    }
    let mut start = [0; BINPRM_BUF_SIZE];
    let read = read_at(&file, &mut start, 0).map_err(|error| unreadable(path, &error))?;
    let start = &start[..read];
    if let Some(line) = start.strip_prefix(b"#!") {
        return interpreter(path, line).map(Found::Script);
    }
    let reach = check_elf(path, &file)?;
    if matches!(reach, Reach::Preload) {
        check_privileges(path, &file, &meta)?;
    }
    Ok(Found::Program(reach))
}

fn open(path: &Path, script: &Path) -> Result<File, Problem> {
    // A path that is executable but not readable cannot be judged, and ld.so
    // could still run it; none of the user's own programs look like that.
    File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if path == script => {
            Problem::new(path.display(), "no such file", "check the path").with_status(NOT_FOUND)
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Problem::new(
            script.display(),
            format_args!("its interpreter {} does not exist", path.display()),
            format_args!(
                "install it, or correct the first line of {}",
                script.display()
            ),
        )
        .with_status(NOT_FOUND),
        _ => unreadable(path, &error),
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    cannot(
        path,
        format_args!("cannot be read ({})", crate::libraries::reason(error)),
        "make it readable or name another program",
    )
}

/// The program that a `#!` line names.
fn interpreter(path: &Path, line: &[u8]) -> Result<PathBuf, Problem> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let word = line
        .split(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        .find(|word| !word.is_empty());
    match word {
        Some(word) => Ok(PathBuf::from(OsString::from_vec(word.to_vec()))),
        None => Err(cannot(
            path,
            "its #! line names no interpreter",
            "correct its first line",
        )),
    }
}

fn check_elf(path: &Path, file: &File) -> Result<Reach, Problem> {
    let head = Head::read(file).map_err(|error| unreadable(path, &error))?;
    let (happened, advice) = match head {
        Head::Program {
            interpreter: Some(loader),
        } => return check_loader(path, Path::new(OsStr::from_bytes(&loader))),
        Head::Program { interpreter: None } if is_dynamic_loader(path) => {
            return Ok(Reach::Preload);
        }
        Head::Program { interpreter: None } => {
            let why = cannot(
                path,
                "statically linked: nothing to preload",
                "use a dynamically linked build of it",
            );
            return Ok(Reach::Calls {
                why,
                has_loader: false,
            });
        }
        Head::NotElf => (
            "not a program: neither an ELF file nor a script with a #! line",
            "name another program",
        ),
        Head::Damaged => ("a damaged ELF file", "build or install it again"),
        Head::Bits32 => ("a 32-bit program", "use a 64-bit (x86-64) build of it"),
        Head::OtherMachine => ("built for another processor", "use an x86-64 build of it"),
        Head::NotProgram => (
            "an ELF file but not a program",
            "link it first, or name another program",
        ),
    };
    Err(cannot(path, happened, advice))
}

fn check_loader(path: &Path, loader: &Path) -> Result<Reach, Problem> {
    if is_musl(loader.as_os_str().as_bytes()) {
        let why = cannot(
            path,
            "linked against musl libc",
            "use a build of it for glibc",
        );
        return match loader.exists() {
            true => Ok(Reach::Calls {
                why,
                has_loader: true,
            }),
            false => Err(why),
        };
    }
    if !loader.exists() {
        return Err(Problem::new(
            path.display(),
            format_args!("its dynamic loader {} does not exist", loader.display()),
            "install the C library it was built for",
        )
        .with_status(NOT_FOUND));
    }
    Ok(Reach::Preload)
}

/// `ld.so PROGRAM` has no interpreter of its own but honours LD_PRELOAD.
fn is_dynamic_loader(path: &Path) -> bool {
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real.file_name()
        .is_some_and(|name| name.as_bytes().starts_with(b"ld-linux"))
}

/// The loader ignores LD_PRELOAD when exec changes privileges (AT_SECURE).
fn check_privileges(path: &Path, file: &File, meta: &std::fs::Metadata) -> Result<(), Problem> {
    let kept = fstatvfs(file).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOSUID))
        || nix::sys::prctl::get_no_new_privs().unwrap_or(false);
    if kept {
        return Ok(());
    }
    let dropped = |what: &str, advice: String| {
        Err(cannot(
            path,
            format_args!("{what}: such programs ignore preloaded libraries"),
            advice,
        ))
    };
    if meta.mode() & libc::S_ISUID != 0 && meta.uid() != getuid().as_raw() {
        return dropped(
            "set-user-ID",
            format!("run it as its owner ({})", user_name(meta.uid())),
        );
    }
    let set_group = libc::S_ISGID | libc::S_IXGRP;
    if meta.mode() & set_group == set_group && meta.gid() != getgid().as_raw() {
        return dropped(
            "set-group-ID",
            "use a copy of it without that bit".to_owned(),
        );
    }
    if !getuid().is_root() && has_capabilities(file) {
        return dropped(
            "has file capabilities",
            "use a copy of it without them".to_owned(),
        );
    }
    Ok(())
}

/// A user's name, or the number if it has none.
pub fn user_name(uid: u32) -> String {
    match nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        _ => format!("user {uid}"),
    }
}

fn has_capabilities(file: &File) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is open, the name ends with NUL, and a size of 0 asks for the length only.
    let length = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            c"security.capability".as_ptr(),
            std::ptr::null_mut(),
            0,
        )
    };
    length > 0
}
