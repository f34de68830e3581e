//! glob(3), by which bpftrace finds the tracepoints that a pattern names.
//! libc looks at directories behind the functions exported here, unless it is
//! told by which ones to look.

use std::ffi::{CStr, c_char, c_int, c_void};

use libc::{DIR, GLOB_ALTDIRFUNC, dirent64, glob_t, stat};

use crate::tracefs;

/// `glob_t` as libc has it with its functions, of which the crate keeps none.
#[repr(C)]
struct Functions {
    found: usize,
    paths: *mut *mut c_char,
    offset: usize,
    flags: c_int,
    closedir: Option<unsafe extern "C" fn(*mut DIR)>,
    readdir: Option<unsafe extern "C" fn(*mut DIR) -> *mut dirent64>,
    opendir: Option<unsafe extern "C" fn(*const c_char) -> *mut DIR>,
    lstat: Option<unsafe extern "C" fn(*const c_char, *mut stat) -> c_int>,
    stat: Option<unsafe extern "C" fn(*const c_char, *mut stat) -> c_int>,
}

const _: () = assert!(size_of::<Functions>() == size_of::<glob_t>());

unsafe extern "C" fn close(directory: *mut DIR) {
    // SAFETY: glob(3) closes what it opened by `open`, once.
    unsafe { libc::closedir(directory) };
}

unsafe extern "C" fn read(directory: *mut DIR) -> *mut dirent64 {
    // SAFETY: glob(3) reads what it opened by `open`.
    unsafe { libc::readdir64(directory) }
}

unsafe extern "C" fn open(path: *const c_char) -> *mut DIR {
    // SAFETY: a terminated path of glob(3)'s.
    unsafe { super::bpffs::opendir(path) }
}

unsafe extern "C" fn look(path: *const c_char, to: *mut stat) -> c_int {
    super::paths::stat(path, to)
}

unsafe extern "C" fn look_at_link(path: *const c_char, to: *mut stat) -> c_int {
    super::paths::lstat(path, to)
}

/// Whether files that the kernel does not show may be meant.
fn is_ours(pattern: *const c_char, flags: c_int) -> bool {
    if pattern.is_null() || flags & GLOB_ALTDIRFUNC != 0 {
        return false;
    }
    // SAFETY: the caller's contract for glob(3): a terminated string.
    let pattern = unsafe { CStr::from_ptr(pattern) }.to_bytes();
    let begins = |root: &str| pattern.starts_with(root.as_bytes());
    tracefs::ROOTS.into_iter().any(begins)
}

/// Defines an exported `glob`-like function.
macro_rules! globs {
    ($(#[$doc:meta])* fn $name:ident) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(
            pattern: *const c_char,
            flags: c_int,
            failed: *mut c_void,
            to: *mut Functions,
        ) -> c_int {
            super::next::next_function! {
                /// libc's own.
                unsafe fn $name(pattern: *const c_char, flags: c_int, failed: *mut c_void, to: *mut Functions) -> c_int,
                else libc::GLOB_ABORTED
            }
            let mut flags = flags;
            if is_ours(pattern, flags) && !to.is_null() {
                flags |= GLOB_ALTDIRFUNC;
                // SAFETY: the caller's structure, which has room for the functions.
                unsafe {
                    (*to).closedir = Some(close);
                    (*to).readdir = Some(read);
                    (*to).opendir = Some(open);
                    (*to).lstat = Some(look_at_link);
                    (*to).stat = Some(look);
                }
            }
            // SAFETY: the caller's contract for this function is passed on.
            unsafe { own::$name(pattern, flags, failed, to) }
        }
    };
}

globs! {
    /// glob(3).
    fn glob
}
globs! {
    /// glob64, the same on 64-bit machines.
    fn glob64
}
