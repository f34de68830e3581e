//! Files that tools read before and while they trace, and that are missing
//! or closed to ordinary users on some machines. It knows no object.
//!
//! The real file wins: a virtual one stands in only when the kernel says that
//! there is none or that we may not read it. Only /proc/kallsyms, which
//! anybody may read, is another where it hides what tools look for.

mod content;
pub mod own;

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use uapi::Errno;

use crate::kallsyms;
use crate::{raw, user};
pub use content::{Content, TRACING_FILES, find};

/// The uprobe PMU's number: the kernel's, else the one in our virtual file.
pub fn uprobe_pmu_type() -> u32 {
    static TYPE: OnceLock<u32> = OnceLock::new();
    *TYPE.get_or_init(|| pmu_type(content::UPROBE_TYPE_PATH).unwrap_or(content::UPROBE_TYPE))
}

/// The kprobe PMU's number: the kernel's, else the one in our virtual file.
pub fn kprobe_pmu_type() -> u32 {
    static TYPE: OnceLock<u32> = OnceLock::new();
    *TYPE.get_or_init(|| pmu_type(content::KPROBE_TYPE_PATH).unwrap_or(content::KPROBE_TYPE))
}

fn pmu_type(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What is shown in place of a file that the kernel has and opens.
pub fn instead(path: &CStr) -> Option<Content> {
    (path.to_bytes() == kallsyms::PATH).then(|| Content::Text(kallsyms::text()))
}

/// Whether a failure to open or look at a file lets a virtual one stand in.
pub fn may_stand_in(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::EACCES | Errno::EPERM)
}

/// What stands in for `path`, if something does.
pub fn stand_in(path: &CStr) -> Option<Content> {
    find(path.to_bytes())
}

/// An fd of a virtual file, at its beginning; a directory's entries are not
/// shown to who lists them.
///
/// # Errors
/// ENOENT for a directory; EMFILE, ENOMEM.
pub fn open(content: Content, flags: c_int) -> Result<c_int, Errno> {
    match content {
        Content::Text(text) => memory_file(text, flags & libc::O_CLOEXEC != 0),
        Content::Directory => Err(Errno::ENOENT),
    }
}

fn memory_file(text: &str, close_on_exec: bool) -> Result<c_int, Errno> {
    let flags = if close_on_exec { libc::MFD_CLOEXEC } else { 0 };
    let name = c"bpftime-virtual";
    let fd = raw::checked(
        libc::SYS_memfd_create,
        [name.as_ptr() as usize, flags as usize, 0, 0, 0, 0],
    )?;
    let written = raw::checked(
        libc::SYS_pwrite64,
        [fd, text.as_ptr() as usize, text.len(), 0, 0, 0],
    );
    match written {
        Ok(_) => Ok(fd as c_int),
        Err(errno) => {
            raw::close(fd as c_int);
            Err(errno)
        }
    }
}

/// An fd of what /proc tells of one of our fds; `None` for other paths.
pub fn open_own(path: *const c_char, flags: c_int) -> Option<c_int> {
    let path = user::read_string(path as u64, user::PATH_MAX).ok()?;
    let text = std::panic::catch_unwind(|| own::text(&path)).ok()??;
    memory_file(&text, flags & libc::O_CLOEXEC != 0).ok()
}

/// What stat(2) says of a virtual file.
pub fn stat(content: Content) -> libc::stat {
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    match content {
        Content::Text(text) => {
            stat.st_mode = libc::S_IFREG | 0o444;
            stat.st_nlink = 1;
            stat.st_size = text.len() as i64;
        }
        Content::Directory => {
            stat.st_mode = libc::S_IFDIR | 0o755;
            stat.st_nlink = 2;
        }
    }
    stat.st_blksize = 4096;
    stat
}
