//! Files that are whole or not there. It knows nothing of what is in them.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::libraries::reason;
use crate::problem::Problem;

/// Writes all of them or none; each takes the place of what had its name.
pub fn write(files: &[(PathBuf, Vec<u8>)]) -> Result<(), Problem> {
    let mut written = Vec::new();
    let result = files.iter().try_for_each(|(path, bytes)| {
        let temporary = temporary(path);
        written.push(temporary.clone());
        write_new(&temporary, bytes).map_err(|error| refused(path, &error))
    });
    let result = result.and_then(|()| {
        files.iter().try_for_each(|(path, _)| {
            fs::rename(temporary(path), path).map_err(|error| refused(path, &error))
        })
    });
    if result.is_err() {
        for temporary in written {
            // The first error is the one to tell.
            let _ = fs::remove_file(temporary);
        }
    }
    result
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A signal would end us without a word.
    if !shm::sys::may_grow_to(bytes.len() as u64) {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)
}

/// Why a file or directory cannot be made.
pub fn refused(path: &Path, error: &io::Error) -> Problem {
    let advice = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "free some space, or choose another directory by -o",
        Some(libc::EFBIG) => "raise the limit on file sizes (ulimit -f)",
        _ => "choose another directory by -o",
    };
    let happened = format_args!("cannot be written ({})", reason(error)).to_string();
    Problem::new(path.display(), happened, advice)
}
