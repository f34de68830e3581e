//! The calls that tell names: a name in a tree of ours is that of the place it
//! stands for.

use std::ffi::{CStr, CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libc::size_t;
use uapi::Errno;

use super::next::next_function;
use crate::raw::fail;
use crate::{trees, user};

/// The absolute path of something in a tree, as the tool names it; `None` for
/// what is elsewhere.
fn resolved(path: *const c_char) -> Option<Result<PathBuf, Errno>> {
    let led = trees::lead(path)?;
    let resolve = |real: &CStr| {
        let real = Path::new(std::ffi::OsStr::from_bytes(real.to_bytes()));
        let real = real
            .canonicalize()
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::ENOENT)))?;
        // Pins are known by the path they were asked for.
        let asked = || user::read_string(path as u64, user::PATH_MAX);
        let asked = || trees::normal(&asked().unwrap_or_default()).unwrap_or_default();
        let shown = trees::shown(&real).map(|(_, shown)| shown);
        Ok(shown.unwrap_or_else(|| PathBuf::from(std::ffi::OsStr::from_bytes(&asked()))))
    };
    Some(led.and_then(|led| resolve(&led.real)))
}

/// Copies a path to where the caller wants it, or to memory of malloc(3).
///
/// # Safety
/// `to` is null, or has room for the longest path.
unsafe fn answer(path: Result<PathBuf, Errno>, to: *mut c_char) -> *mut c_char {
    let path = path.and_then(|path| {
        CString::new(path.into_os_string().into_encoded_bytes()).map_err(|_| Errno::ENOENT)
    });
    match path {
        // SAFETY: a terminated string.
        Ok(path) if to.is_null() => unsafe { libc::strdup(path.as_ptr()) },
        Ok(path) => {
            // SAFETY: the caller's; a path is no longer than the longest.
            unsafe { libc::strcpy(to, path.as_ptr()) }
        }
        Err(errno) => {
            fail(errno);
            std::ptr::null_mut()
        }
    }
}

/// realpath(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn realpath(path: *const c_char, to: *mut c_char) -> *mut c_char {
    next_function! {
        /// libc's own.
        unsafe fn realpath(path: *const c_char, to: *mut c_char) -> *mut c_char,
        else std::ptr::null_mut()
    }
    match resolved(path) {
        // SAFETY: the caller's contract for this function is passed on.
        None => unsafe { own::realpath(path, to) },
        // SAFETY: as above.
        Some(path) => unsafe { answer(path, to) },
    }
}

/// realpath(3) of programs built with `_FORTIFY_SOURCE`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __realpath_chk(
    path: *const c_char,
    to: *mut c_char,
    size: size_t,
) -> *mut c_char {
    next_function! {
        /// libc's own.
        unsafe fn __realpath_chk(path: *const c_char, to: *mut c_char, size: size_t) -> *mut c_char,
        else std::ptr::null_mut()
    }
    match resolved(path) {
        // SAFETY: the caller's contract for this function is passed on.
        None => unsafe { own::__realpath_chk(path, to, size) },
        // SAFETY: as above.
        Some(path) => unsafe { answer(path, to) },
    }
}

/// canonicalize_file_name(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn canonicalize_file_name(path: *const c_char) -> *mut c_char {
    // SAFETY: the caller's contract, with an answer in new memory.
    unsafe { realpath(path, std::ptr::null_mut()) }
}

/// getcwd(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn getcwd(to: *mut c_char, size: size_t) -> *mut c_char {
    next_function! {
        /// libc's own.
        unsafe fn getcwd(to: *mut c_char, size: size_t) -> *mut c_char,
        else std::ptr::null_mut()
    }
    // SAFETY: the caller's contract for this function is passed on.
    let real = unsafe { own::getcwd(to, size) };
    if real.is_null() {
        return real;
    }
    let shown = {
        // SAFETY: libc's answer, a terminated string.
        let real = unsafe { CStr::from_ptr(real) };
        let real = Path::new(std::ffi::OsStr::from_bytes(real.to_bytes()));
        trees::shown(real)
    };
    if let Some((_, shown)) = shown {
        let shown = shown.as_os_str().as_bytes();
        // SAFETY: a name of ours is shorter than that of the tree on disk,
        // for which there was room.
        let room = unsafe { libc::strlen(real) };
        let len = shown.len().min(room);
        // SAFETY: as above.
        unsafe {
            std::ptr::copy_nonoverlapping(shown.as_ptr().cast(), real, len);
            *real.add(len) = 0;
        }
    }
    real
}

/// What scandir(3) calls with entries.
type Picks = Option<unsafe extern "C" fn(*const libc::dirent) -> c_int>;
type Orders =
    Option<unsafe extern "C" fn(*mut *const libc::dirent, *mut *const libc::dirent) -> c_int>;

/// Defines an exported `scandir`-like function.
macro_rules! scans {
    ($(#[$doc:meta])* fn $name:ident) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            path: *const c_char,
            list: *mut *mut *mut libc::dirent,
            picks: Picks,
            orders: Orders,
        ) -> c_int {
            next_function! {
                /// libc's own.
                unsafe fn $name(path: *const c_char, list: *mut *mut *mut libc::dirent, picks: Picks, orders: Orders) -> c_int,
                else fail(Errno::ENOSYS) as c_int
            }
            let led = match trees::lead(path) {
                Some(Err(errno)) => return fail(errno) as c_int,
                Some(Ok(led)) => Some(led.real),
                None => None,
            };
            let path = led.as_ref().map_or(path, |real| real.as_ptr());
            // SAFETY: the caller's contract, perhaps with another path.
            unsafe { own::$name(path, list, picks, orders) }
        }
    };
}

scans! {
    /// scandir(3).
    fn scandir
}
scans! {
    /// scandir64, the same on 64-bit machines.
    fn scandir64
}
