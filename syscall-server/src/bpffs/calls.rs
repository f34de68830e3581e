//! System calls on paths and fds in the tree that answer other than for the
//! directories and files that are really there.

use std::ffi::{CStr, c_int, c_long};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use uapi::Errno;

use super::trees;
use crate::raw;
use crate::server::existing;

/// open(2): pins cannot be opened, nor files made.
pub fn open(path: &CStr, flags: c_int, mode: u32) -> Result<c_int, Errno> {
    if flags & libc::O_PATH == 0 {
        match (kind(path), flags & libc::O_CREAT != 0) {
            (Some(_), true) if flags & libc::O_EXCL != 0 => return Err(Errno::EEXIST),
            (Some(libc::S_IFREG), _) if flags & libc::O_DIRECTORY == 0 => return Err(Errno::EIO),
            (None, true) => return Err(Errno::EACCES),
            _ => {}
        }
    }
    let at = [libc::AT_FDCWD as usize, path.as_ptr() as usize];
    let arguments = [at[0], at[1], flags as usize, mode as usize, 0, 0];
    raw::checked(libc::SYS_openat, arguments).map(|fd| fd as c_int)
}

fn kind(path: &CStr) -> Option<u32> {
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    let (path, to) = (path.as_ptr() as usize, &raw mut stat as usize);
    let arguments = [libc::AT_FDCWD as usize, path, to, 0, 0, 0];
    let found = raw::checked(libc::SYS_newfstatat, arguments);
    found.ok().map(|_| stat.st_mode & libc::S_IFMT)
}

/// A pin has no bytes and one name, whatever the kernel has just said of it.
///
/// # Safety
/// The kernel has just written the structure there.
pub unsafe fn empty(to: *mut libc::stat) {
    // SAFETY: the caller's.
    let stat = unsafe { &mut *to };
    if stat.st_mode & libc::S_IFMT == libc::S_IFREG {
        (stat.st_size, stat.st_blocks, stat.st_nlink) = (0, 0, 1);
    }
}

/// The same of statx(2), whose answer this is.
///
/// # Safety
/// When it is 0, the kernel has just written the structure there.
pub unsafe fn empty_statx(answer: c_long, to: *mut libc::statx) -> c_long {
    if answer == 0 {
        // SAFETY: the caller's.
        let stat = unsafe { &mut *to };
        if u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFREG {
            (stat.stx_size, stat.stx_blocks, stat.stx_nlink) = (0, 0, 1);
        }
    }
    answer
}

/// A pin that took the place of another of the same object, which is another
/// name of the same file, and stays after a rename(2) of one to the other.
pub fn finish_rename(from: [usize; 2], to: [usize; 2]) {
    let stat = |[directory, path]: [usize; 2]| {
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        let flags = libc::AT_SYMLINK_NOFOLLOW as usize;
        let arguments = [directory, path, &raw mut stat as usize, flags, 0, 0];
        let found = raw::checked(libc::SYS_newfstatat, arguments);
        found.ok().map(|_| stat)
    };
    // Gone, as nearly always.
    let Some(left) = stat(from) else { return };
    let same = stat(to).is_some_and(|to| (to.st_dev, to.st_ino) == (left.st_dev, left.st_ino));
    let is_file = left.st_mode & libc::S_IFMT == libc::S_IFREG;
    // Not one name in two spellings.
    if let (Some((from_path, inside)), Some((to_path, _))) = (real(from), real(to))
        && inside
        && is_file
        && same
        && from_path != to_path
    {
        raw::call(libc::SYS_unlinkat, [from[0], from[1], 0, 0, 0, 0]);
    }
}

/// Where a name really is, and whether that is in the tree.
fn real([directory, path]: [usize; 2]) -> Option<(PathBuf, bool)> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let arguments = [directory, path, flags as usize, 0, 0, 0];
    let fd = raw::checked(libc::SYS_openat, arguments).ok()? as c_int;
    let real = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    let inside = is_inside(fd);
    raw::close(fd);
    Some((real.ok()?, inside))
}

/// Whether an fd is of something in the tree.
pub fn is_inside(fd: c_int) -> bool {
    let real = |fd: c_int| std::fs::read_link(format!("/proc/self/fd/{fd}"));
    let Ok(path) = real(fd) else { return false };
    // /dev/shm may be a symbolic link, as may be what the user chose.
    trees().any(|tree| {
        path.starts_with(tree)
            || shares_name(&path, tree)
                && std::fs::canonicalize(tree).is_ok_and(|tree| path.starts_with(tree))
    })
}

fn shares_name(path: &Path, tree: &Path) -> bool {
    tree.file_name()
        .is_some_and(|name| path.iter().any(|part| part.as_bytes() == name.as_bytes()))
}

/// A name in the tree has gone or moved: this process may have kept what was
/// behind it.
pub fn changed(answer: c_long) -> c_long {
    if answer == 0
        && let Some(server) = existing()
    {
        let before = raw::errno();
        // What panics in there is told nobody, and the name is gone.
        let collect = std::panic::AssertUnwindSafe(|| server.bpf.collect());
        let _ = std::panic::catch_unwind(collect);
        raw::fail(before);
    }
    answer
}
