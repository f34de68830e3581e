//! Whether a tool will be able to make a session, tried without leaving a
//! trace. It knows nothing of what is in a session.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::geteuid;

use crate::libraries::reason;
use crate::problem::Problem;

/// What a small session needs: object table, counters, a few maps.
const ROOM: libc::off_t = 1 << 20;

/// Finds out whether sessions can be made in `dir`, which need not exist.
pub fn check(dir: &Path) -> Result<(), Problem> {
    let exists = match fs::symlink_metadata(dir) {
        Ok(meta) if !meta.is_dir() => {
            return Err(unusable(
                dir,
                "is not a directory",
                "remove it, or set BPFTIME_SESSION_DIR to another one",
            ));
        }
        Ok(meta) if meta.uid() != geteuid().as_raw() => {
            return Err(unusable(
                dir,
                "belongs to another user",
                "remove it, or set BPFTIME_SESSION_DIR to another one",
            ));
        }
        Ok(_) => true,
        Err(_) => false,
    };
    // The session makes the directory itself, so its parent must take it.
    let place = if exists {
        dir
    } else {
        dir.parent().unwrap_or(Path::new("/"))
    };
    try_room(place).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => Problem::new(
            place.display(),
            "full: no room for a session",
            format_args!(
                "remove files from it, or set BPFTIME_SESSION_DIR to a directory with room"
            ),
        ),
        Some(libc::EFBIG) => Problem::new(
            place.display(),
            "the limit on file sizes (ulimit -f) does not allow for a session",
            "raise it",
        ),
        _ => unusable(
            dir,
            &format!("not writable ({})", reason(&error)),
            "set BPFTIME_SESSION_DIR to a directory of your own",
        ),
    })
}

fn unusable(dir: &Path, happened: &str, advice: &str) -> Problem {
    Problem::new(
        dir.display(),
        format_args!("session directory {happened}"),
        advice,
    )
}

/// Reserves room in a file without a name: it is gone when closed.
fn try_room(place: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(place);
    let file = match file {
        // The file system has no unnamed files (EISDIR before Linux 3.11).
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            return try_directory(place);
        }
        other => other?,
    };
    if !shm::sys::may_grow_to(ROOM as u64) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    // SAFETY: the descriptor is open for writing; no memory is passed.
    match unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, ROOM) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            error => Err(error),
        },
    }
}

/// Makes a directory and removes it at once.
fn try_directory(place: &Path) -> io::Result<()> {
    let probe = place.join(format!(".bpftime-{}", std::process::id()));
    fs::create_dir(&probe)?;
    fs::remove_dir(&probe)
}
