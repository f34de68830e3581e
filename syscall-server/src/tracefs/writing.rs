//! Files of tracefs that are written to. Who opens one gets an fd of a file of
//! its own, which everybody can write to by whatever call; what is written by
//! write(2) is answered at once, what comes by other ways when a stream is
//! flushed, and what then is left when somebody looks at events. It knows no
//! line.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr, c_int};
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use uapi::Errno;

use super::probe::Kind;
use super::probes::Probes;
use super::tree;
use crate::environment::Environment;
use crate::fds::FDS;
use crate::kernel::placement;
use crate::{forks, log, raw};

/// The directory of what is being written, beside the tree.
const NAME: &str = "writes";

/// What one open file for writing is; duplicates of its fd share it.
pub struct Writing {
    kind: Kind,
    path: PathBuf,
}

/// open(2) of what a path in the tree leads to.
///
/// # Errors
/// EACCES for writing what cannot be changed, EBUSY for clearing what is in
/// use; those of open(2).
pub fn open(real: &CStr, flags: c_int) -> Result<c_int, Errno> {
    let path = Path::new(OsStr::from_bytes(real.to_bytes()));
    let is_written = flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0;
    if !is_written {
        let flags = (flags & !(libc::O_CREAT | libc::O_TRUNC)) as usize;
        let arguments = [
            libc::AT_FDCWD as usize,
            real.as_ptr() as usize,
            flags,
            0,
            0,
            0,
        ];
        let opened = raw::checked(libc::SYS_openat, arguments).map(|fd| fd as c_int);
        if opened == Err(Errno::ENOENT) {
            tell_missing(path);
        }
        return opened;
    }
    let root = tree::root().ok_or(super::NO_TREE)?.join(tree::TRACING);
    let name = path.file_name().unwrap_or_default().as_bytes();
    match Kind::of_file(name).filter(|_| path.parent() == Some(&root)) {
        Some(kind) => open_for_writing(&root, kind, flags),
        None if path.is_dir() => Err(Errno(libc::EISDIR)),
        None if path.exists() => {
            log::debug(format_args!(
                "{} cannot be written: events run programs, and nothing else",
                path.display()
            ));
            Err(Errno::EACCES)
        }
        None => Err(Errno::ENOENT),
    }
}

/// Says once of a tracepoint whose files are looked for, and that the tree does
/// not have, who does.
fn tell_missing(path: &Path) {
    static TOLD: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut parts = path.iter().rev().map(OsStrExt::as_bytes);
    let file = parts.next().unwrap_or_default();
    let (Some(name), Some(category), Some(b"events")) = (parts.next(), parts.next(), parts.next())
    else {
        return;
    };
    // Of programs' own groups nobody has more than the tree.
    let is_own = matches!(category, b"uprobes" | b"kprobes" | b"synthetic");
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(file, b"id" | b"format") && !is_own && told.insert(path.with_file_name("")) {
        let [category, name] = [category, name].map(String::from_utf8_lossy);
        let missing = placement::missing(Environment::read().runtime);
        log::problem(format_args!(
            "only the kernel hosts tracepoint {category}:{name}, {missing}"
        ));
    }
}

fn open_for_writing(root: &Path, kind: Kind, flags: c_int) -> Result<c_int, Errno> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    settle();
    if flags & libc::O_TRUNC != 0 {
        Probes::lock(root)?.clear(kind)?;
    }
    let is_read = flags & libc::O_ACCMODE == libc::O_RDWR;
    let list = match is_read {
        true => Probes::read(root).listed(kind),
        false => String::new(),
    };
    let directory = root.with_file_name(NAME);
    let make = || -> io::Result<(PathBuf, fs::File)> {
        fs::create_dir_all(&directory)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = [kind.file(), &list.len().to_string()].join(".");
        let path = directory.join(format!("{name}.{}.{number}", std::process::id()));
        fs::write(&path, &list)?;
        let file = OpenOptions::new()
            .read(is_read)
            .append(true)
            .custom_flags(flags & (libc::O_NONBLOCK | libc::O_NOFOLLOW))
            .open(&path)?;
        file.lock_shared()?;
        Ok((path, file))
    };
    let (path, file) = make().map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))?;
    // The lowest number, as of any new fd, and to be kept by who executes.
    let fd = raw::checked(libc::SYS_dup, [file.as_raw_fd() as usize, 0, 0, 0, 0, 0])? as c_int;
    if flags & libc::O_CLOEXEC != 0 {
        let arguments = [fd as usize, libc::F_SETFD as usize, 1, 0, 0, 0];
        raw::call(libc::SYS_fcntl, arguments);
    }
    forks::watch();
    FDS.insert_writing(fd, Arc::new(Writing { kind, path }))?;
    Ok(fd)
}

impl Writing {
    /// write(2).
    ///
    /// # Errors
    /// Those of [`Probes::write`].
    pub fn write(&self, bytes: &[u8]) -> Result<(), Errno> {
        // What a stream wrote before comes first.
        self.settle()?;
        let root = self.directory().with_file_name(tree::TRACING);
        Probes::lock(&root)?.write(self.kind, bytes)
    }

    /// Does what was written by other ways than [`Writing::write`].
    ///
    /// # Errors
    /// Those of [`Probes::write`].
    pub fn settle(&self) -> Result<(), Errno> {
        take(self.directory(), &self.path).map_err(|(errno, _)| errno)
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }
}

/// Nobody is left to be told of what is wrong with what was written.
impl Drop for Writing {
    fn drop(&mut self) {
        tell(take(self.directory(), &self.path));
    }
}

/// Does what has been written to all files, and removes those that nobody has
/// open any more.
pub fn settle() {
    let Some(directory) = tree::existing().map(|trees| trees.join(NAME)) else {
        return;
    };
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        let path = entry.path();
        tell(take(&directory, &path));
        let is_open = fs::File::open(&path)
            .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        if !is_open {
            drop(fs::remove_file(&path));
        }
    }
}

fn tell(taken: Result<(), (Errno, String)>) {
    if let Err((errno, text)) = taken {
        log::problem(format_args!(
            "not a trace event ({errno}): {}",
            shown(&text)
        ));
    }
}

/// So much of what was written as says what it was: it may be anything.
fn shown(text: &str) -> String {
    const MOST: usize = 400;
    let text = text.trim_end();
    let start: String = text.chars().take(MOST).collect();
    let rest = text.len() - start.len();
    let is_plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    let plain = start.replace(|c| !is_plain(c), "\u{fffd}");
    match rest {
        0 => plain,
        _ => format!("{plain}… and {rest} bytes"),
    }
}

/// Takes what was written out of a file below `directory` and does it.
fn take(directory: &Path, path: &Path) -> Result<(), (Errno, String)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut parts = name.split('.');
    let kind = parts.next().and_then(|name| Kind::of_file(name.as_bytes()));
    let listed = parts.next().and_then(|bytes| bytes.parse().ok());
    let (Some(kind), Some(listed)) = (kind, listed) else {
        return Ok(());
    };
    if fs::metadata(path).is_ok_and(|meta| meta.len() <= listed) {
        return Ok(());
    }
    let root = directory.with_file_name(tree::TRACING);
    let mut probes = Probes::lock(&root).map_err(|errno| (errno, String::new()))?;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(listed))?;
        file.read_to_end(&mut bytes)?;
        file.set_len(listed)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    if bytes.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    probes.write(kind, &bytes).map_err(|errno| (errno, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_event_is_shown_in_short() {
        assert_eq!(shown("p:x y\nr:z\n"), "p:x y\nr:z");
        assert_eq!(shown("a\x1b[31m\0\tb"), "a\u{fffd}[31m\u{fffd}\tb");
        let long = shown(&"äb".repeat(1000));
        assert_eq!(long, "äb".repeat(200) + "… and 2400 bytes");
    }
}
