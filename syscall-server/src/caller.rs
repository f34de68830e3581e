//! Whose call a thread answers: that of the process it runs in, as in a tool
//! that has this library preloaded, or that of a supervised process, whose
//! memory, fds and paths are elsewhere. It knows no command.

use std::cell::Cell;
use std::ffi::{CString, c_int};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use uapi::Errno;

use crate::raw;
use crate::supervisor::notice::{Listener, Notice};
use crate::supervisor::table;

thread_local! {
    static CALL: Cell<Option<Call>> = const { Cell::new(None) };
}

/// A call that this thread answers.
#[derive(Clone, Copy)]
struct Call {
    listener: Listener,
    id: u64,
    tid: i32,
}

/// The supervised thread whose call this thread answers now.
pub fn supervised() -> Option<i32> {
    CALL.get().map(|call| call.tid)
}

/// Whether the caller still waits, so that its number is not another's.
pub fn waits() -> bool {
    CALL.get().is_none_or(|call| call.listener.waits(call.id))
}

/// Answers a call of a supervised thread.
pub fn answering<T>(listener: Listener, notice: &Notice, answer: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            CALL.set(None);
        }
    }
    let (id, tid) = (notice.id, notice.tid as i32);
    CALL.set(Some(Call { listener, id, tid }));
    let _reset = Reset;
    answer()
}

/// The caller's process id.
pub fn pid() -> i32 {
    supervised().map_or_else(shm::sys::getpid, process_of)
}

/// The process of a thread; the thread itself when it has gone meanwhile.
pub fn process_of(tid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|tgid| tgid.trim().parse().ok())
        .unwrap_or(tid)
}

/// Where the caller's files of /proc are: `self`, or its number.
pub fn in_proc(file: &str) -> String {
    match supervised() {
        None => format!("/proc/self/{file}"),
        Some(tid) => format!("/proc/{tid}/{file}"),
    }
}

/// Our own fd for the file that is `fd` to the caller; `None` for one that
/// is not ours.
pub fn own_fd(fd: c_int) -> Option<c_int> {
    match supervised() {
        None => Some(fd),
        Some(tid) => table::own_fd(tid, fd),
    }
}

/// Whether the caller has such an fd.
pub fn is_open(fd: c_int) -> Result<(), Errno> {
    let open = match supervised() {
        None => {
            let get = libc::F_GETFD as usize;
            raw::checked(libc::SYS_fcntl, [fd as usize, get, 0, 0, 0, 0]).is_ok()
        }
        Some(tid) => std::fs::read_link(format!("/proc/{tid}/fd/{fd}")).is_ok(),
    };
    open.then_some(()).ok_or(Errno::EBADF)
}

/// The file name of the caller's program.
pub fn program() -> Vec<u8> {
    let path = std::fs::read_link(in_proc("exe")).unwrap_or_default();
    path.file_name()
        .map_or_else(Vec::new, |name| name.as_bytes().to_vec())
}

/// A duplicate of the caller's fd.
///
/// # Errors
/// EBADF without one; EPERM where this process may not have it.
pub fn duplicate(fd: c_int) -> Result<OwnedFd, Errno> {
    duplicate_of(pid(), fd)
}

/// The same of any process's.
///
/// # Errors
/// As [`duplicate`].
pub fn duplicate_of(pid: i32, fd: c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel has just made the fd, for nobody else.
    let owned = |fd: usize| unsafe { OwnedFd::from_raw_fd(fd as c_int) };
    let process = raw::checked(libc::SYS_pidfd_open, [pid as usize, 0, 0, 0, 0, 0]).map(owned)?;
    let words = [process.as_raw_fd() as usize, fd as usize, 0, 0, 0, 0];
    raw::checked(libc::SYS_pidfd_getfd, words).map(owned)
}

/// The caller's name of a file, as this process must name it.
///
/// # Errors
/// EINVAL for a name with a zero inside.
pub fn path(name: &[u8]) -> Result<CString, Errno> {
    let real = match supervised() {
        None => name.to_vec(),
        Some(tid) => seen_from(tid, name),
    };
    CString::new(real).map_err(|_| Errno::EINVAL)
}

/// The same of a name that may begin at an open directory of the caller's; a
/// process's own directories are known by the same numbers to itself.
///
/// # Errors
/// As [`path`].
pub fn path_at(directory: c_int, name: &[u8]) -> Result<CString, Errno> {
    match supervised() {
        Some(tid) if directory != libc::AT_FDCWD && !name.starts_with(b"/") => {
            let start = format!("/proc/{tid}/fd/{directory}/");
            CString::new([start.as_bytes(), name].concat()).map_err(|_| Errno::EINVAL)
        }
        _ => path(name),
    }
}

fn seen_from(tid: i32, name: &[u8]) -> Vec<u8> {
    let start = if name.starts_with(b"/") {
        "root"
    } else {
        "cwd"
    };
    let whole = |rest: &[u8]| [format!("/proc/{tid}").as_bytes(), b"/", rest].concat();
    if let Some(rest) = name.strip_prefix(b"/proc/self/") {
        return whole(rest);
    }
    if let Some(rest) = name.strip_prefix(b"/proc/thread-self/") {
        return whole(rest);
    }
    match start {
        // Nearly always the same; the plain name is then what others see, too.
        "root" if shares_root(tid) => name.to_vec(),
        _ => whole(&[start.as_bytes(), b"/", name].concat()),
    }
}

fn shares_root(tid: i32) -> bool {
    let root = std::fs::read_link(format!("/proc/{tid}/root"));
    let spaces = [
        format!("/proc/{tid}/ns/mnt"),
        "/proc/self/ns/mnt".to_owned(),
    ];
    let [theirs, ours] = spaces.map(|path| std::fs::read_link(path).ok());
    root.is_ok_and(|root| root.into_os_string().into_vec() == b"/") && theirs == ours
}
