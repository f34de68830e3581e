//! The bytes of a file that a user names, and no more of them than anything
//! that can be run has.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::libraries::reason;
use crate::problem::Problem;

/// Larger than any module, object or package, smaller than a machine.
const MOST_BYTES: u64 = 256 << 20;

pub fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    let advice = "name an object file, a Wasm module or a package";
    let refuse = |what: &str| Problem::new(file.display(), what, advice);
    let unreadable = |error: &io::Error| {
        let what = format!("cannot be read ({})", reason(error));
        Problem::new(file.display(), what, advice)
    };
    // A directory and a device are named as such, and a FIFO is waited for.
    let kind = fs::metadata(file)
        .map_err(|error| unreadable(&error))?
        .file_type();
    if kind.is_dir() {
        return Err(refuse("is a directory"));
    }
    if kind.is_char_device() || kind.is_block_device() {
        return Err(refuse("is a device"));
    }
    let mut bytes = Vec::new();
    let taken = File::open(file).and_then(|open| open.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    taken.map_err(|error| unreadable(&error))?;
    match bytes.len() as u64 {
        0 => Err(refuse("is empty")),
        1..=MOST_BYTES => Ok(bytes),
        _ => Err(refuse("is larger than 256 MiB")),
    }
}
