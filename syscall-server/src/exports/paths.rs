//! The calls that open files and ask about them: where the kernel has none,
//! a virtual one may stand in. Every call is made to libc first.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;

use libc::{FILE, mode_t};
use uapi::Errno;

use super::identity;
use super::next::next_function;
use crate::bpffs::{self, changed};
use crate::raw::{self, errno, fail};
use crate::trees::{self, Led, Tree};
use crate::{files, headers, trace_pipe, tracefs, user};

/// What stands in for the file at `path` after a call for it failed. Only
/// absolute paths are looked at, so the directory of an `*at` call is not.
fn stand_in(path: *const c_char) -> Option<&'static [u8]> {
    if !files::may_stand_in(errno()) {
        return None;
    }
    let path = user::read_string(path as u64, user::PATH_MAX).ok()?;
    let path = CString::new(path).ok()?;
    files::stand_in(&path)
}

/// Runs `f` when a call failed; errno stays that of the call unless `f`
/// has an answer.
fn or_virtual<T>(f: impl FnOnce() -> Option<T> + std::panic::UnwindSafe) -> Option<T> {
    let before = errno();
    let answer = std::panic::catch_unwind(f).ok().flatten();
    if answer.is_none() {
        fail(before);
    }
    answer
}

fn open_virtual(path: *const c_char, flags: c_int) -> c_int {
    or_virtual(|| {
        if let Some(real) = redirected(path) {
            return open_real(&real, flags);
        }
        files::open(stand_in(path)?, flags).ok()
    })
    .unwrap_or(-1)
}

/// open(2) of what a path leads to.
pub(super) fn open_led(led: Result<Led, Errno>, flags: c_int, mode: mode_t) -> c_int {
    let opened = led.and_then(|led| match led.tree {
        Tree::Bpffs => bpffs::open(&led.real, flags, mode),
        Tree::Tracefs | Tree::Sysfs => tracefs::writing::open(&led.real, flags),
    });
    opened.unwrap_or_else(|errno| fail(errno) as c_int)
}

/// Where an open(2) of this path leads.
pub(super) fn lead_open(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
) -> Option<Result<Led, Errno>> {
    let led = trees::lead(path).or_else(|| trees::lead_from(directory, path))?;
    let pipe = led.as_ref().ok().filter(|led| led.tree == Tree::Tracefs);
    let pipe = pipe.and_then(|led| trace_pipe::redirected(led.real.to_bytes()));
    Some(match pipe.filter(|_| flags & libc::O_PATH == 0) {
        Some(real) => Ok(Led {
            tree: Tree::Tracefs,
            real,
        }),
        None => led,
    })
}

/// What is opened in place of a file that the kernel has.
fn open_instead(path: *const c_char, flags: c_int) -> Option<c_int> {
    // SAFETY: the kernel has just read a string there.
    let path = unsafe { CStr::from_ptr(path) };
    or_virtual(|| {
        if let Some(real) = trace_pipe::of_tool(path.to_bytes()) {
            return open_real(&real, flags);
        }
        files::open(files::instead(path)?, flags).ok()
    })
}

fn open_real(path: &CStr, flags: c_int) -> Option<c_int> {
    let (at, path) = (libc::AT_FDCWD as usize, path.as_ptr() as usize);
    let arguments = [at, path, flags as usize, 0, 0, 0];
    let fd = raw::checked(libc::SYS_openat, arguments);
    fd.ok().map(|fd| fd as c_int)
}

/// Whether types of the kernel's can be had without headers. bpftrace takes
/// them from there, unless it finds headers, which the system's do not go with.
fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// The file of ours on disk that `path` leads to.
fn redirected(path: *const c_char) -> Option<CString> {
    let path = user::read_string(path as u64, user::PATH_MAX).ok()?;
    let headers = match has_btf() && identity::is_bpftrace() {
        true => None,
        false => headers::redirected(&path),
    };
    headers.or_else(|| trace_pipe::redirected(&path))
}

/// Defines an exported `open`-like function with a path and flags.
macro_rules! opens {
    ($(#[$doc:meta])* fn $name:ident([$($before:ident: $bt:ty)?], path, flags, [$($mode:ident: $mt:ty)?])) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($before: $bt,)? path: *const c_char, flags: c_int $(, $mode: $mt)?) -> c_int {
            next_function! {
                /// libc's own.
                unsafe fn $name($($before: $bt,)? path: *const c_char, flags: c_int $(, $mode: $mt)?) -> c_int,
                else fail(Errno::ENOSYS) as c_int
            }
            let directory = [libc::AT_FDCWD $(, $before)?];
            if let Some(led) = lead_open(directory[directory.len() - 1], path, flags) {
                return open_led(led, flags, 0 $(| $mode)?);
            }
            if let Some(fd) = files::open_own(path, flags) {
                return fd;
            }
            // SAFETY: the caller's contract for this function is passed on.
            match unsafe { own::$name($($before,)? path, flags $(, $mode)?) } {
                -1 => open_virtual(path, flags),
                fd => open_instead(path, flags).inspect(|_| raw::close(fd)).unwrap_or(fd),
            }
        }
    };
}

opens! {
    /// open(2).
    fn open([], path, flags, [mode: mode_t])
}
opens! {
    /// open64, the same on 64-bit machines.
    fn open64([], path, flags, [mode: mode_t])
}
opens! {
    /// openat(2).
    fn openat([directory: c_int], path, flags, [mode: mode_t])
}
opens! {
    /// openat64, the same on 64-bit machines.
    fn openat64([directory: c_int], path, flags, [mode: mode_t])
}
opens! {
    /// open(2) of programs built with `_FORTIFY_SOURCE`.
    fn __open_2([], path, flags, [])
}
opens! {
    /// open64 of programs built with `_FORTIFY_SOURCE`.
    fn __open64_2([], path, flags, [])
}
opens! {
    /// openat(2) of programs built with `_FORTIFY_SOURCE`.
    fn __openat_2([directory: c_int], path, flags, [])
}
opens! {
    /// openat64 of programs built with `_FORTIFY_SOURCE`.
    fn __openat64_2([directory: c_int], path, flags, [])
}

/// A stream on a virtual file, or null with errno as it was.
fn fopen_virtual(path: *const c_char, mode: *const c_char) -> *mut FILE {
    let stream = or_virtual(|| {
        if let Some(real) = redirected(path) {
            // SAFETY: a terminated path; `mode` is the caller's.
            let stream = unsafe { libc::fopen(real.as_ptr(), mode) };
            return (!stream.is_null()).then_some(stream);
        }
        stream(stand_in(path)?, mode)
    });
    stream.unwrap_or(std::ptr::null_mut())
}

/// A stream in place of one on a file that the kernel has.
fn fopen_instead(path: *const c_char, mode: *const c_char) -> Option<*mut FILE> {
    // SAFETY: the kernel has just read a string there.
    let path = unsafe { CStr::from_ptr(path) };
    or_virtual(|| stream(files::instead(path)?, mode))
}

fn stream(content: &[u8], mode: *const c_char) -> Option<*mut FILE> {
    let fd = files::open(content, libc::O_CLOEXEC).ok()?;
    // SAFETY: `mode` is the caller's, which fopen has just read.
    let stream = unsafe { libc::fdopen(fd, mode) };
    if stream.is_null() {
        raw::close(fd);
        return None;
    }
    Some(stream)
}

/// A stream on what a path leads to.
fn fopen_led(path: *const c_char, mode: *const c_char) -> Option<*mut FILE> {
    // SAFETY: the caller's, who wants it opened so.
    let letters = || unsafe { CStr::from_ptr(mode) }.to_bytes();
    let is_both = |letters: &[u8]| letters.contains(&b'+');
    let flags = || match letters() {
        letters @ [b'r', ..] if is_both(letters) => libc::O_RDWR,
        [b'r', ..] => libc::O_RDONLY,
        [b'a', ..] => libc::O_WRONLY | libc::O_APPEND,
        letters if is_both(letters) => libc::O_RDWR | libc::O_TRUNC,
        _ => libc::O_WRONLY | libc::O_TRUNC,
    };
    let led = trees::lead(path).or_else(|| trees::lead_from(libc::AT_FDCWD, path))?;
    if led.as_ref().is_ok_and(|led| led.tree == Tree::Bpffs) {
        // Pins cannot be read, directories are no streams.
        fail(Errno::EIO);
        return Some(std::ptr::null_mut());
    }
    let close = if letters().contains(&b'e') {
        libc::O_CLOEXEC
    } else {
        0
    };
    let flags = flags() | close;
    let fd = open_led(lead_open(libc::AT_FDCWD, path, flags)?, flags, 0);
    if fd < 0 {
        return Some(std::ptr::null_mut());
    }
    // SAFETY: the fd is the stream's from now on; `mode` is the caller's.
    Some(unsafe { libc::fdopen(fd, mode) })
}

/// Defines an exported `fopen`-like function.
macro_rules! fopens {
    ($(#[$doc:meta])* fn $name:ident) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(path: *const c_char, mode: *const c_char) -> *mut FILE {
            next_function! {
                /// libc's own.
                unsafe fn $name(path: *const c_char, mode: *const c_char) -> *mut FILE,
                else std::ptr::null_mut()
            }
            if let Some(led) = fopen_led(path, mode) {
                return led;
            }
            if let Some(fd) = files::open_own(path, libc::O_CLOEXEC) {
                // SAFETY: the fd is the stream's from now on; `mode` is the caller's.
                return unsafe { libc::fdopen(fd, mode) };
            }
            // SAFETY: the caller's contract for this function is passed on.
            let stream = unsafe { own::$name(path, mode) };
            if stream.is_null() {
                return fopen_virtual(path, mode);
            }
            match fopen_instead(path, mode) {
                Some(instead) => {
                    // SAFETY: nobody has seen this stream.
                    unsafe { libc::fclose(stream) };
                    instead
                }
                None => stream,
            }
        }
    };
}

fopens! {
    /// fopen(3).
    fn fopen
}
fopens! {
    /// fopen64, the same on 64-bit machines.
    fn fopen64
}

fn access_virtual(path: *const c_char, mode: c_int) -> c_int {
    or_virtual(|| {
        if let Some(real) = redirected(path) {
            let arguments = [real.as_ptr() as usize, mode as usize, 0, 0, 0, 0];
            let allowed = raw::checked(libc::SYS_access, arguments);
            return allowed.ok().map(|_| 0);
        }
        stand_in(path)?;
        // Nothing of ours is a program.
        (mode & libc::X_OK == 0).then_some(0)
    })
    .unwrap_or(-1)
}

/// access(2).
#[unsafe(no_mangle)]
extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    let led = trees::lead(path);
    let at = match &led {
        Some(Err(errno)) => return fail(*errno) as c_int,
        Some(Ok(led)) => led.real.as_ptr(),
        None => path,
    };
    let arguments = [at as usize, mode as usize, 0, 0, 0, 0];
    match raw::pass(libc::SYS_access, arguments) {
        -1 => access_virtual(path, mode),
        answer => answer as c_int,
    }
}

/// faccessat(3), whose flags libc knows how to emulate.
#[unsafe(no_mangle)]
unsafe extern "C" fn faccessat(
    directory: c_int,
    path: *const c_char,
    mode: c_int,
    flags: c_int,
) -> c_int {
    next_function! {
        /// libc's own.
        unsafe fn faccessat(directory: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int,
        else fail(Errno::ENOSYS) as c_int
    }
    if let Some(led) = trees::lead(path) {
        let answer = led.map(|led| {
            // SAFETY: as the caller's, with another path.
            unsafe { own::faccessat(libc::AT_FDCWD, led.real.as_ptr(), mode, flags) }
        });
        return answer.unwrap_or_else(|errno| fail(errno) as c_int);
    }
    // SAFETY: the caller's contract for this function is passed on.
    match unsafe { own::faccessat(directory, path, mode, flags) } {
        -1 => access_virtual(path, mode),
        answer => answer,
    }
}

/// What statx(2) says of a virtual file, as far as stat(2) says it.
pub(super) fn statx_virtual(path: *const c_char, to: *mut libc::statx) -> c_int {
    or_virtual(|| {
        let stat = files::stat(stand_in(path)?);
        // SAFETY: a structure of numbers, for which zeros are values.
        let mut found: libc::statx = unsafe { std::mem::zeroed() };
        found.stx_mask = libc::STATX_BASIC_STATS;
        found.stx_blksize = stat.st_blksize as u32;
        found.stx_nlink = stat.st_nlink as u32;
        found.stx_mode = stat.st_mode as u16;
        found.stx_size = stat.st_size as u64;
        // SAFETY: the bytes of a structure of numbers; padding was zeroed.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const found).cast::<u8>(), size_of::<libc::statx>())
        };
        user::write(to as u64, bytes).ok()?;
        Some(0)
    })
    .unwrap_or(-1)
}

fn stat_virtual(path: *const c_char, to: *mut libc::stat) -> c_int {
    or_virtual(|| {
        if let Some(real) = redirected(path) {
            let (path, at) = (real.as_ptr() as usize, libc::AT_FDCWD as usize);
            let arguments = [at, path, to as usize, 0, 0, 0];
            let found = raw::checked(libc::SYS_newfstatat, arguments);
            return found.ok().map(|_| 0);
        }
        let stat = files::stat(stand_in(path)?);
        // SAFETY: the bytes of a structure of numbers; padding was zeroed.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const stat).cast::<u8>(), size_of::<libc::stat>())
        };
        user::write(to as u64, bytes).ok()?;
        Some(0)
    })
    .unwrap_or(-1)
}

/// newfstatat(2), in the terms of all `stat` functions.
fn stat_at(directory: c_int, path: *const c_char, to: *mut libc::stat, flags: c_int) -> c_int {
    let led = trees::lead(path);
    let at = match &led {
        Some(Err(errno)) => return fail(*errno) as c_int,
        Some(Ok(led)) => led.real.as_ptr(),
        None => path,
    };
    let arguments = [
        directory as usize,
        at as usize,
        to as usize,
        flags as usize,
        0,
        0,
    ];
    match raw::pass(libc::SYS_newfstatat, arguments) {
        -1 => stat_virtual(path, to),
        answer => {
            if led.is_some() {
                // SAFETY: the kernel has just written there, as it answered.
                unsafe { bpffs::empty(to) };
            }
            answer as c_int
        }
    }
}

/// stat(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn stat(path: *const c_char, to: *mut libc::stat) -> c_int {
    stat_at(libc::AT_FDCWD, path, to, 0)
}

/// stat64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn stat64(path: *const c_char, to: *mut libc::stat) -> c_int {
    stat_at(libc::AT_FDCWD, path, to, 0)
}

/// lstat(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn lstat(path: *const c_char, to: *mut libc::stat) -> c_int {
    stat_at(libc::AT_FDCWD, path, to, libc::AT_SYMLINK_NOFOLLOW)
}

/// lstat64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn lstat64(path: *const c_char, to: *mut libc::stat) -> c_int {
    stat_at(libc::AT_FDCWD, path, to, libc::AT_SYMLINK_NOFOLLOW)
}

/// fstatat(2).
#[unsafe(no_mangle)]
extern "C" fn fstatat(
    directory: c_int,
    path: *const c_char,
    to: *mut libc::stat,
    flags: c_int,
) -> c_int {
    stat_at(directory, path, to, flags)
}

/// fstatat64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn fstatat64(
    directory: c_int,
    path: *const c_char,
    to: *mut libc::stat,
    flags: c_int,
) -> c_int {
    stat_at(directory, path, to, flags)
}

/// chdir(2): bcc compiles in the directory of the kernel's headers, and bpffs
/// is elsewhere.
#[unsafe(no_mangle)]
extern "C" fn chdir(path: *const c_char) -> c_int {
    let real = match trees::lead(path) {
        None => std::panic::catch_unwind(|| redirected(path)).ok().flatten(),
        Some(Ok(led)) => Some(led.real),
        Some(Err(errno)) => return fail(errno) as c_int,
    };
    let path = real.as_ref().map_or(path, |real| real.as_ptr());
    raw::pass(libc::SYS_chdir, [path as usize, 0, 0, 0, 0, 0]) as c_int
}

/// unlink(2): in bpffs, of a pin.
fn unlink_at(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    let unlink = |directory: c_int, path: *const c_char| {
        let arguments = [directory as usize, path as usize, flags as usize, 0, 0, 0];
        raw::pass(libc::SYS_unlinkat, arguments)
    };
    let answer = match bpffs::redirected(path) {
        None => unlink(directory, path),
        Some(Ok(real)) => changed(unlink(libc::AT_FDCWD, real.as_ptr())),
        Some(Err(errno)) => fail(errno),
    };
    answer as c_int
}

/// unlink(2).
#[unsafe(no_mangle)]
extern "C" fn unlink(path: *const c_char) -> c_int {
    unlink_at(libc::AT_FDCWD, path, 0)
}

/// unlinkat(2).
#[unsafe(no_mangle)]
extern "C" fn unlinkat(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    unlink_at(directory, path, flags)
}
