//! The calls on names that matter in bpffs alone: where pins are listed, moved
//! and removed. Elsewhere they are the kernel's.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint};

use libc::{DIR, mode_t};
use uapi::Errno;

use super::next::next_function;
use super::paths;
use crate::bpffs::{self, changed, redirected};
use crate::raw::{self, fail};
use crate::trees::{self, Tree};

/// Makes a call with one path, at the place it leads to.
fn on(directory: c_int, path: *const c_char, call: impl Fn(usize, usize) -> c_long) -> c_int {
    let answer = match redirected(path) {
        None => call(directory as usize, path as usize),
        Some(Ok(real)) => call(libc::AT_FDCWD as usize, real.as_ptr() as usize),
        Some(Err(errno)) => fail(errno),
    };
    answer as c_int
}

/// mkdir(2).
#[unsafe(no_mangle)]
extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    mkdirat(libc::AT_FDCWD, path, mode)
}

/// mkdirat(2).
#[unsafe(no_mangle)]
extern "C" fn mkdirat(directory: c_int, path: *const c_char, mode: mode_t) -> c_int {
    on(directory, path, |directory, path| {
        raw::pass(libc::SYS_mkdirat, [directory, path, mode as usize, 0, 0, 0])
    })
}

/// rmdir(2).
#[unsafe(no_mangle)]
extern "C" fn rmdir(path: *const c_char) -> c_int {
    on(libc::AT_FDCWD, path, |directory, path| {
        let flags = libc::AT_REMOVEDIR as usize;
        raw::pass(libc::SYS_unlinkat, [directory, path, flags, 0, 0, 0])
    })
}

/// rename(2).
#[unsafe(no_mangle)]
extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    renameat2(libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0)
}

/// renameat(2).
#[unsafe(no_mangle)]
extern "C" fn renameat(
    from_directory: c_int,
    from: *const c_char,
    to_directory: c_int,
    to: *const c_char,
) -> c_int {
    renameat2(from_directory, from, to_directory, to, 0)
}

/// renameat2(2). Out of bpffs and into it is to another file system.
#[unsafe(no_mangle)]
extern "C" fn renameat2(
    from_directory: c_int,
    from: *const c_char,
    to_directory: c_int,
    to: *const c_char,
    flags: c_uint,
) -> c_int {
    let rename = |from: [usize; 2], to: [usize; 2]| {
        let arguments = [from[0], from[1], to[0], to[1], flags as usize, 0];
        let answer = raw::pass(libc::SYS_renameat2, arguments);
        if answer == 0 && flags == 0 {
            bpffs::finish_rename(from, to);
        }
        answer
    };
    let here = libc::AT_FDCWD as usize;
    let answer = match (redirected(from), redirected(to)) {
        (None, None) => rename(
            [from_directory as usize, from as usize],
            [to_directory as usize, to as usize],
        ),
        (Some(Err(errno)), _) | (_, Some(Err(errno))) => fail(errno),
        (Some(Ok(from)), Some(Ok(to))) => changed(rename(
            [here, from.as_ptr() as usize],
            [here, to.as_ptr() as usize],
        )),
        _ => fail(Errno(libc::EXDEV)),
    };
    answer as c_int
}

/// symlink(2).
#[unsafe(no_mangle)]
extern "C" fn symlink(target: *const c_char, path: *const c_char) -> c_int {
    on(libc::AT_FDCWD, path, |directory, path| {
        let arguments = [target as usize, directory, path, 0, 0, 0];
        raw::pass(libc::SYS_symlinkat, arguments)
    })
}

/// chmod(2).
#[unsafe(no_mangle)]
extern "C" fn chmod(path: *const c_char, mode: mode_t) -> c_int {
    on(libc::AT_FDCWD, path, |directory, path| {
        raw::pass(
            libc::SYS_fchmodat,
            [directory, path, mode as usize, 0, 0, 0],
        )
    })
}

/// readlink(2).
#[unsafe(no_mangle)]
extern "C" fn readlink(path: *const c_char, to: usize, size: usize) -> isize {
    if let Some(name) = links_to(path) {
        let name = &name[..name.len().min(size)];
        return match crate::user::write(to as u64, name) {
            Ok(()) => name.len() as isize,
            Err(errno) => fail(errno) as isize,
        };
    }
    let call = |path: usize| raw::pass(libc::SYS_readlink, [path, to, size, 0, 0, 0]);
    let answer = match redirected(path) {
        None => call(path as usize),
        Some(Ok(real)) => call(real.as_ptr() as usize),
        Some(Err(errno)) => fail(errno),
    };
    answer as isize
}

/// What the link at `path` of /proc says of an fd of ours, or of what is in a
/// tree of ours.
fn links_to(path: *const c_char) -> Option<Vec<u8>> {
    let path = crate::user::read_string(path as u64, crate::user::PATH_MAX).ok()?;
    if !path.starts_with(b"/proc/") {
        return None;
    }
    let own = || crate::files::own::link(&path).map(Vec::from);
    let before = raw::errno();
    let name = std::panic::catch_unwind(|| own().or_else(|| trees::link(&path)));
    raw::fail(before);
    name.ok()?
}

/// statx(2).
#[unsafe(no_mangle)]
extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    to: *mut libc::statx,
) -> c_int {
    let (flags, mask) = (flags as usize, mask as usize);
    let call = |directory: c_int, path: *const c_char| {
        let arguments = [
            directory as usize,
            path as usize,
            flags,
            mask,
            to as usize,
            0,
        ];
        raw::pass(libc::SYS_statx, arguments)
    };
    let answer = match trees::lead(path) {
        None => match call(directory, path) {
            -1 => c_long::from(paths::statx_virtual(path, to)),
            answer => answer,
        },
        // SAFETY: `to` is where the kernel has written what it found.
        Some(Ok(led)) => unsafe { bpffs::empty_statx(call(libc::AT_FDCWD, led.real.as_ptr()), to) },
        Some(Err(errno)) => fail(errno),
    };
    answer as c_int
}

/// statfs(2).
#[unsafe(no_mangle)]
extern "C" fn statfs(path: *const c_char, to: *mut libc::statfs) -> c_int {
    let call =
        |path: *const c_char| raw::pass(libc::SYS_statfs, [path as usize, to as usize, 0, 0, 0, 0]);
    let answer = match trees::lead(path) {
        None => {
            let answer = call(path);
            match trees::of_relative(path) {
                // SAFETY: `to` is where the kernel has written what it found.
                Some(tree) => unsafe { say_magic(answer, to, tree) },
                None => answer,
            }
        }
        // SAFETY: `to` is where the kernel has written what it found.
        Some(Ok(led)) => unsafe { say_magic(call(led.real.as_ptr()), to, led.tree) },
        Some(Err(errno)) => fail(errno),
    };
    answer as c_int
}

/// statfs64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn statfs64(path: *const c_char, to: *mut libc::statfs) -> c_int {
    statfs(path, to)
}

/// fstatfs(2).
#[unsafe(no_mangle)]
extern "C" fn fstatfs(fd: c_int, to: *mut libc::statfs) -> c_int {
    let answer = raw::pass(libc::SYS_fstatfs, [fd as usize, to as usize, 0, 0, 0, 0]);
    let tree = || match bpffs::is_inside(fd) {
        true => Some(Tree::Bpffs),
        false => trees::known_as(fd).map(|(tree, _)| tree),
    };
    if answer == 0
        && let Some(tree) = tree()
    {
        // SAFETY: `to` is where the kernel has written what it found.
        return unsafe { say_magic(answer, to, tree) } as c_int;
    }
    answer as c_int
}

/// What statfs(2), whose answer this is, says of a tree: the kernel's file
/// system, whatever it really is.
///
/// # Safety
/// When it is 0, the kernel has just written the structure there.
unsafe fn say_magic(answer: c_long, to: *mut libc::statfs, tree: Tree) -> c_long {
    if answer == 0 {
        // SAFETY: the caller's.
        unsafe { (*to).f_type = tree.magic() };
    }
    answer
}

/// fstatfs64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn fstatfs64(fd: c_int, to: *mut libc::statfs) -> c_int {
    fstatfs(fd, to)
}

/// opendir(3), which libc does not do through the open(2) above.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn opendir(path: *const c_char) -> *mut DIR {
    next_function! {
        /// libc's own.
        unsafe fn opendir(path: *const c_char) -> *mut DIR,
        else std::ptr::null_mut()
    }
    match trees::lead(path) {
        // SAFETY: the caller's contract for this function is passed on.
        None => unsafe { own::opendir(path) },
        Some(Ok(led)) => open_directory(&led.real),
        Some(Err(errno)) => {
            fail(errno);
            std::ptr::null_mut()
        }
    }
}

fn open_directory(real: &CStr) -> *mut DIR {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let fd = match bpffs::open(real, flags, 0) {
        Ok(fd) => fd,
        Err(errno) => {
            fail(errno);
            return std::ptr::null_mut();
        }
    };
    // SAFETY: an fd of a directory, which is the stream's from now on.
    let stream = unsafe { libc::fdopendir(fd) };
    if stream.is_null() {
        raw::close(fd);
    }
    stream
}

/// Extended attributes: files in bpffs have none, as those in the tree.
macro_rules! attributes {
    ($($(#[$doc:meta])* fn $name:ident = $number:ident;)*) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            extern "C" fn $name(
                path: *const c_char,
                name: *const c_char,
                value: usize,
                size: usize,
            ) -> isize {
                let call = |path: usize| {
                    raw::pass(libc::$number, [path, name as usize, value, size, 0, 0])
                };
                let answer = match redirected(path) {
                    None => call(path as usize),
                    Some(Ok(real)) => call(real.as_ptr() as usize),
                    Some(Err(errno)) => fail(errno),
                };
                answer as isize
            }
        )*
    };
}

attributes! {
    /// getxattr(2).
    fn getxattr = SYS_getxattr;
    /// lgetxattr(2).
    fn lgetxattr = SYS_lgetxattr;
}
