//! Who the process is and what it may, as far as tools ask before they use
//! bpf(2).

use std::ffi::{c_int, c_uint};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{pid_t, rlimit};
use uapi::Errno;

use super::guarded;
use crate::{raw, user};

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
    NAME.get_or_init(|| {
        let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        path.file_name()
            .map_or_else(Vec::new, |name| name.as_bytes().to_vec())
    })
}

/// Programs that count their capabilities before they try bpf(2).
const COUNT_CAPABILITIES: [&[u8]; 2] = [b"bpftrace", b"bpftool"];

/// What they want: `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`, `CAP_NET_ADMIN`,
/// `CAP_SYS_ADMIN`, `CAP_SYS_RESOURCE`, `CAP_PERFMON`, `CAP_BPF`.
const CAPABILITIES: u64 = 1 << 1 | 1 << 2 | 1 << 12 | 1 << 21 | 1 << 24 | 1 << 38 | 1 << 39;

/// `struct __user_cap_data_struct`: effective, permitted, inheritable.
const CAPABILITY_SET_BYTES: u64 = 12;

/// capget(2): those programs see the capabilities that bpf(2) needs in the
/// kernel. Having them changes nothing else for them.
#[unsafe(no_mangle)]
pub(super) extern "C" fn capget(header: usize, data: usize) -> c_int {
    let answer = raw::pass(libc::SYS_capget, [header, data, 0, 0, 0, 0]) as c_int;
    if answer != 0 || data == 0 || !COUNT_CAPABILITIES.contains(&program_name()) {
        return answer;
    }
    guarded(|| {
        for (half, bits) in [CAPABILITIES as u32, (CAPABILITIES >> 32) as u32]
            .into_iter()
            .enumerate()
        {
            for set in 0..2 {
                let at = data as u64 + half as u64 * CAPABILITY_SET_BYTES + set * 4;
                user::write(at, &(user::read_u32(at)? | bits).to_le_bytes())?;
            }
        }
        Ok(0)
    }) as c_int
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
