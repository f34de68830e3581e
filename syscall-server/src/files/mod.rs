//! Files that tools read before and while they trace, and that are missing
//! or closed to ordinary users on some machines. It knows no object.
//!
//! The real file wins: a virtual one stands in only when the kernel says that
//! there is none or that we may not read it. Only /proc/kallsyms, which
//! anybody may read, is another where it hides what tools look for.

mod config;
pub mod own;

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use uapi::Errno;

use crate::kallsyms;
use crate::{raw, user};

/// The number of the uprobe PMU where the kernel shows none.
pub const UPROBE_TYPE: u32 = 8;
/// Where the kernel shows it.
const UPROBE_TYPE_PATH: &str = "/sys/bus/event_source/devices/uprobe/type";
/// The same of the kprobe PMU: a number that no kernel gives.
pub const KPROBE_TYPE: u32 = 1010;
/// Where the kernel shows it.
const KPROBE_TYPE_PATH: &str = "/sys/bus/event_source/devices/kprobe/type";

/// Kernel functions that take no kprobe: none of those that we have. Tools read
/// it before they look for functions by a pattern.
const KPROBE_BLACKLIST: &[u8] = b"/sys/kernel/debug/kprobes/blacklist";

/// The uprobe PMU's number: the kernel's, else the one in our virtual file.
pub fn uprobe_pmu_type() -> u32 {
    static TYPE: OnceLock<u32> = OnceLock::new();
    *TYPE.get_or_init(|| pmu_type(UPROBE_TYPE_PATH).unwrap_or(UPROBE_TYPE))
}

/// The kprobe PMU's number: the kernel's, else the one in our virtual file.
pub fn kprobe_pmu_type() -> u32 {
    static TYPE: OnceLock<u32> = OnceLock::new();
    *TYPE.get_or_init(|| pmu_type(KPROBE_TYPE_PATH).unwrap_or(KPROBE_TYPE))
}

fn pmu_type(path: &str) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// What is shown in place of a file that the kernel has and opens.
pub fn instead(path: &CStr) -> Option<&'static [u8]> {
    (path.to_bytes() == kallsyms::PATH).then(|| kallsyms::text().as_bytes())
}

/// Whether a failure to open or look at a file lets a virtual one stand in.
pub fn may_stand_in(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::EACCES | Errno::EPERM)
}

/// What stands in for `path`, if something does.
pub fn stand_in(path: &CStr) -> Option<&'static [u8]> {
    match path.to_bytes() {
        b"/sys/kernel/btf/vmlinux" => Some(runtime::tasks::types()),
        b"/proc/config.gz" => Some(config::gz()),
        KPROBE_BLACKLIST => Some(b""),
        _ => None,
    }
}

/// An fd of a virtual file, at its beginning.
///
/// # Errors
/// EMFILE, ENOMEM.
pub fn open(content: &[u8], flags: c_int) -> Result<c_int, Errno> {
    memory_file(content, flags & libc::O_CLOEXEC != 0)
}

fn memory_file(text: &[u8], close_on_exec: bool) -> Result<c_int, Errno> {
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
    memory_file(text.as_bytes(), flags & libc::O_CLOEXEC != 0).ok()
}

/// What stat(2) says of a virtual file.
pub fn stat(content: &[u8]) -> libc::stat {
    // SAFETY: a structure of numbers, for which zeros are values.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    stat.st_mode = libc::S_IFREG | 0o444;
    stat.st_nlink = 1;
    stat.st_size = content.len() as i64;
    stat.st_blksize = 4096;
    stat
}
