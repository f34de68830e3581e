//! The two libraries this binary carries, and their copies on disk that
//! `ld.so` can load. It knows nothing of what they do.
//!
//! Copies lie in `S/lib-HASH/`, where HASH names their contents, so builds
//! that differ never overwrite each other's files. A file appears there by
//! rename(2), complete or not at all: concurrent starts are safe. [`prune`]
//! takes away those of other versions.

mod prune;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::geteuid;
use runtime::session::{Dirs, LIBRARY_PREFIX};

use crate::log::debug;
use crate::problem::Problem;

pub use embedded::HEADERS;

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/libraries.rs"));
}

/// A library that this binary carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Goes into targets.
    Agent,
    /// Goes into tools.
    SyscallServer,
}

impl Library {
    const ALL: [Self; 2] = [Self::Agent, Self::SyscallServer];

    /// Its file's name.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Agent => "libbpftime-agent.so",
            Self::SyscallServer => "libbpftime-syscall-server.so",
        }
    }

    /// Its contents.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::Agent => embedded::AGENT,
            Self::SyscallServer => embedded::SYSCALL_SERVER,
        }
    }
}

/// Unpacks both libraries under the state directory unless they are there
/// already, and returns the path of `library`.
pub fn unpack(dirs: &Dirs, library: Library) -> Result<PathBuf, Problem> {
    let state = dirs.state.as_path();
    let Own { dir, held } = own(dirs)?;
    let mut is_new = false;
    for each in Library::ALL {
        let path = dir.join(each.file_name());
        if !holds(&path, each.bytes()) {
            debug!("unpacking {}", path.display());
            replace(&dir, each.file_name(), each.bytes())
                .map_err(|error| cannot_write(state, &error))?;
            is_new = true;
        }
    }
    name_command(&dir);
    drop(held);
    if is_new {
        prune::prune(dirs, &own_name());
    }
    executable(&dir, state)?;
    Ok(dir.join(library.file_name()))
}

/// This version's directory.
pub struct Own {
    pub dir: PathBuf,
    /// Nobody takes it away while this lives.
    pub held: Option<Flock<File>>,
}

/// The directory of this version below the state directory.
pub fn own(dirs: &Dirs) -> Result<Own, Problem> {
    let state = dirs.state.as_path();
    let failed = |error: io::Error| cannot_write(state, &error);
    create_private_dir(state).map_err(failed)?;
    trust(state)?;
    let dir = state.join(own_name());
    let held = prune::hold(&dir).map_err(failed)?;
    trust(&dir)?;
    Ok(Own { dir, held })
}

fn own_name() -> String {
    format!("{LIBRARY_PREFIX}{}", embedded::HASH)
}

/// Why nothing can be kept in the state directory.
pub fn cannot_write(state: &Path, error: &io::Error) -> Problem {
    match error.raw_os_error() {
        Some(libc::EFBIG) => Problem::new(
            state.display(),
            "the limit on file sizes (ulimit -f) does not allow for bpftime's libraries",
            "raise it, or run a bpftime command once without it",
        ),
        Some(libc::ENOSPC | libc::EDQUOT) => Problem::new(
            state.display(),
            "no space left for bpftime's libraries",
            "free some, or set BPFTIME_STATE_DIR to a directory with room",
        ),
        _ => Problem::new(
            state.display(),
            format_args!("state directory not writable ({})", reason(error)),
            "set BPFTIME_STATE_DIR to a directory of your own",
        ),
    }
}

/// The symbolic link beside the libraries that leads to this command: the server
/// has processes attached to that tools name.
const COMMAND: &str = "bpftime";

/// Makes it lead to us. Without it, tools say that they cannot attach.
fn name_command(dir: &Path) {
    let named = || -> io::Result<()> {
        let (own, link) = (std::env::current_exe()?, dir.join(COMMAND));
        if fs::read_link(&link).is_ok_and(|path| path == own) {
            return Ok(());
        }
        let temporary = dir.join(format!(".{COMMAND}.{}", std::process::id()));
        std::os::unix::fs::symlink(own, &temporary)?;
        fs::rename(&temporary, link).inspect_err(|_| {
            // The first error is the one to tell.
            let _ = fs::remove_file(&temporary);
        })
    };
    if let Err(error) = named() {
        debug!("{} is not named: {error}", dir.display());
    }
}

/// The error without Rust's " (os error N)".
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        None => error.to_string(),
    }
}

/// Makes a directory that only its owner may enter, unless it is there.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        other => other,
    }
}

/// Others must not be able to change what we load into processes: the
/// fallback under /tmp could have been made by anyone.
fn trust(dir: &Path) -> Result<(), Problem> {
    let distrust = |why: &str| {
        Err(Problem::new(
            dir.display(),
            format_args!("state directory {why}"),
            "remove it, or set BPFTIME_STATE_DIR to a directory of your own",
        ))
    };
    match fs::symlink_metadata(dir) {
        Err(_) => distrust("cannot be read"),
        // Whose it is may lead elsewhere by the time a process loads from it.
        Ok(meta) if !meta.is_dir() => distrust("is not a directory"),
        Ok(meta) if meta.uid() != geteuid().as_raw() => distrust("belongs to another user"),
        Ok(meta) if meta.mode() & 0o022 != 0 => distrust("can be written by others"),
        Ok(_) => Ok(()),
    }
}

/// Whether a file has these contents.
pub fn holds(path: &Path, bytes: &[u8]) -> bool {
    let read = || -> io::Result<bool> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        if file.metadata()?.len() != bytes.len() as u64 {
            return Ok(false);
        }
        // In parts, for fresh memory for all of it takes longer than reading.
        let (mut part, mut rest) = ([0; 64 << 10], bytes);
        loop {
            let count = file.read(&mut part)?;
            match rest.split_at_checked(count) {
                Some((_, [])) if count == 0 => return Ok(true),
                Some((same, tail)) if count > 0 && same == &part[..count] => rest = tail,
                _ => return Ok(false),
            }
        }
    };
    // Whatever is wrong with the file, replacing it is the cure.
    read().unwrap_or(false)
}

/// Puts a file into a directory of ours, whole or not at all.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    if !shm::sys::may_grow_to(bytes.len() as u64) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let write = || {
        // A leftover of a killed process that had our id.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o700)
            .open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o700))?;
        file.write_all(bytes)?;
        fs::rename(&temporary, dir.join(name))
    };
    write().inspect_err(|_| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    })
}

fn executable(dir: &Path, state: &Path) -> Result<(), Problem> {
    let flags = File::open(dir)
        .and_then(|dir| fstatvfs(&dir).map(|fs| fs.flags()).map_err(io::Error::from));
    match flags {
        Ok(flags) if flags.contains(FsFlags::ST_NOEXEC) => Err(Problem::new(
            state.display(),
            "state directory is mounted noexec, so no library in it can be loaded",
            "set BPFTIME_STATE_DIR to a directory on another file system",
        )),
        _ => Ok(()),
    }
}

/// What LD_PRELOAD becomes: the user's own libraries first, then `path`.
/// `ld.so` splits the list at spaces and colons and knows no quoting.
pub fn preload(user: Option<&OsStr>, path: &Path) -> Result<Vec<u8>, Problem> {
    let ours = path.as_os_str().as_bytes();
    let separator = |byte: &u8| matches!(byte, b' ' | b':');
    if ours.iter().any(separator) {
        return Err(Problem::new(
            path.display(),
            "a path with a space or colon cannot be preloaded",
            "set BPFTIME_STATE_DIR to a directory without them",
        ));
    }
    let user = user.map(OsStr::as_bytes).unwrap_or_default();
    let mut list = user.to_vec();
    if !user.split(separator).any(|entry| entry == ours) {
        if !list.is_empty() {
            list.push(b':');
        }
        list.extend_from_slice(ours);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_preload_comes_first_and_ours_once() {
        let ours = Path::new("/s/lib-1/a.so");
        let check = |user: Option<&str>, expected: &str| {
            let list = preload(user.map(OsStr::new), ours).expect("a path without separators");
            assert_eq!(String::from_utf8_lossy(&list), expected);
        };
        check(None, "/s/lib-1/a.so");
        check(Some(""), "/s/lib-1/a.so");
        check(Some("libx.so /y.so"), "libx.so /y.so:/s/lib-1/a.so");
        check(Some("/s/lib-1/a.so:/y.so"), "/s/lib-1/a.so:/y.so");
        assert!(preload(None, Path::new("/my state/a.so")).is_err());
    }
}
