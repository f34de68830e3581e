//! Has a process of ours answer the system calls that this process will make
//! as a tool. It knows nothing of how: that is the server's, in the library.

use std::ffi::{CString, OsStr, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

use crate::log::debug;
use crate::problem::{CANNOT_RUN, Problem};

/// The library's function: 0, or an errno.
type Supervise = extern "C" fn() -> c_int;

/// Supervises this process, which is about to become the program at `path`
/// with `variables` added to its environment.
pub fn supervise(path: &Path, server: &Path, variables: &[CString]) -> Result<(), Problem> {
    for variable in variables {
        let mut parts = variable.as_bytes().splitn(2, |&byte| byte == b'=');
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(OsStr::from_bytes(name), OsStr::from_bytes(value)) };
        }
    }
    let function = load(server).ok_or_else(|| {
        Problem::new(
            server.display(),
            "cannot be loaded",
            "remove it; it will be made again",
        )
    })?;
    debug!("supervising {}", path.display());
    match function() {
        0 => Ok(()),
        errno => Err(refused(path, Errno::from_raw(errno))),
    }
}

fn load(server: &Path) -> Option<Supervise> {
    let server = CString::new(server.as_os_str().as_bytes()).ok()?;
    // SAFETY: a terminated path; the library does nothing until it is called.
    let library = unsafe { libc::dlopen(server.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        return None;
    }
    // SAFETY: a live library and a terminated name.
    let function = unsafe { libc::dlsym(library, c"bpftime_supervise".as_ptr()) };
    if function.is_null() {
        return None;
    }
    // SAFETY: the library defines the function so.
    Some(unsafe { std::mem::transmute::<*mut libc::c_void, Supervise>(function) })
}

fn refused(path: &Path, errno: Errno) -> Problem {
    let (why, advice) = match errno {
        Errno::ENOSYS => (
            "and this kernel cannot show its system calls to another process",
            "use Linux 5.19 or newer, or a dynamically linked build",
        ),
        Errno::EBUSY => (
            "and another program answers its system calls already",
            "run it outside of that one (a container, or another bpftime load)",
        ),
        Errno::EPERM => (
            "and this user may not look into own processes",
            "allow it (kernel.yama.ptrace_scope below 2), or use a dynamically linked build",
        ),
        _ => (
            "and its system calls cannot be answered from outside",
            "use a dynamically linked build",
        ),
    };
    let happened = format!("nothing can be preloaded into it, {why} ({})", errno.desc());
    Problem::new(path.display(), happened, advice).with_status(CANNOT_RUN)
}
