//! Who the process is and what it may, as far as tools ask before they use
//! bpf(2).

use std::ffi::{c_int, c_uint};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{pid_t, rlimit};
use uapi::Errno;

use super::guarded;
use crate::{caller, capabilities, raw};

/// geteuid(2): bpftrace refuses to start when this is not 0, libbcc looks for
/// no kernel functions, and both ask nothing else about it. No other program
/// is told a lie: it might act on it.
#[unsafe(no_mangle)]
extern "C" fn geteuid() -> c_uint {
    if is_bpftrace() || has_bcc() {
        return 0;
    }
    shm::sys::geteuid()
}

/// Whether the process has loaded libbcc, as bcc's Python does after it has
/// asked for its own reasons.
fn has_bcc() -> bool {
    static HAS: AtomicBool = AtomicBool::new(false);
    if HAS.load(Ordering::Relaxed) {
        return true;
    }
    let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
    // SAFETY: a terminated name; nothing is loaded, and so no code runs.
    let library = unsafe { libc::dlopen(c"libbcc.so.0".as_ptr(), flags) };
    if !library.is_null() {
        // Stays loaded: the reference is kept.
        HAS.store(true, Ordering::Relaxed);
    }
    !library.is_null()
}

/// Whether the process is bpftrace.
pub(super) fn is_bpftrace() -> bool {
    program_name() == b"bpftrace"
}

/// The file name of the running program.
fn program_name() -> &'static [u8] {
    static NAME: OnceLock<Vec<u8>> = OnceLock::new();
    NAME.get_or_init(caller::program)
}

/// capget(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn capget(header: usize, data: usize) -> c_int {
    let answer = raw::pass(libc::SYS_capget, [header, data, 0, 0, 0, 0]) as c_int;
    if answer != 0 || data == 0 || !capabilities::are_counted_by(program_name()) {
        return answer;
    }
    guarded(|| capabilities::add(data as u64)) as c_int
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
