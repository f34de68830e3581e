//! Who the process is and what it may, as far as tools ask before they use
//! bpf(2).

use std::ffi::{c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use libc::{pid_t, rlimit};
use uapi::Errno;

use crate::raw;

/// geteuid(2): bpftrace refuses to start when this is not 0, and asks nothing
/// else about it. No other program is told a lie: it might act on it.
#[unsafe(no_mangle)]
extern "C" fn geteuid() -> c_uint {
    if is_bpftrace() {
        return 0;
    }
    shm::sys::geteuid()
}

fn is_bpftrace() -> bool {
    static IS_BPFTRACE: OnceLock<bool> = OnceLock::new();
    *IS_BPFTRACE.get_or_init(|| {
        std::fs::read_link("/proc/self/exe")
            .ok()
            .and_then(|path| path.file_name().map(|name| name.as_bytes() == b"bpftrace"))
            .unwrap_or(false)
    })
}

/// Locked memory is the kernel's way to account for maps; ours are files. A
/// limit that may not be raised therefore stands in nobody's way.
fn unless_memlock(resource: c_uint, answer: isize) -> c_int {
    match answer {
        0 => 0,
        error if error == -(libc::EPERM as isize) && resource == libc::RLIMIT_MEMLOCK => 0,
        error => raw::fail(Errno(-error as i32)) as c_int,
    }
}

/// setrlimit(2).
#[unsafe(no_mangle)]
extern "C" fn setrlimit(resource: c_uint, new: *const rlimit) -> c_int {
    let arguments = [0, resource as usize, new as usize, 0, 0, 0];
    unless_memlock(resource, raw::call(libc::SYS_prlimit64, arguments))
}

/// setrlimit64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn setrlimit64(resource: c_uint, new: *const rlimit) -> c_int {
    setrlimit(resource, new)
}

/// prlimit(2).
#[unsafe(no_mangle)]
extern "C" fn prlimit(pid: pid_t, resource: c_uint, new: *const rlimit, old: *mut rlimit) -> c_int {
    let arguments = [
        pid as usize,
        resource as usize,
        new as usize,
        old as usize,
        0,
        0,
    ];
    let answer = raw::call(libc::SYS_prlimit64, arguments);
    if pid == 0 || pid == shm::sys::getpid() {
        unless_memlock(resource, answer)
    } else {
        unless_memlock(c_uint::MAX, answer)
    }
}

/// prlimit64, the same on 64-bit machines.
#[unsafe(no_mangle)]
extern "C" fn prlimit64(
    pid: pid_t,
    resource: c_uint,
    new: *const rlimit,
    old: *mut rlimit,
) -> c_int {
    prlimit(pid, resource, new, old)
}
