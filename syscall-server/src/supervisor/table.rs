//! Which of our fds a supervised process means by its own numbers. The kernel
//! knows: kcmp(2) says whether two fds are of one open file, whatever was
//! duplicated, inherited or sent since. It knows no object.

use std::collections::HashMap;
use std::ffi::c_int;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fds::FDS;
use crate::{raw, supervisor};

/// `KCMP_FILE`.
const KCMP_FILE: usize = 0;

/// Which of ours was last behind a number, of whatever process: where to look
/// first.
static HINTS: Mutex<Option<HashMap<c_int, c_int>>> = Mutex::new(None);

fn hints() -> MutexGuard<'static, Option<HashMap<c_int, c_int>>> {
    HINTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `theirs` is from now on what `own` is here.
pub fn note(theirs: c_int, own: c_int) {
    hints().get_or_insert_default().insert(theirs, own);
}

/// Our fd of the open file that the thread `tid` has under the number `theirs`.
pub fn own_fd(tid: i32, theirs: c_int) -> Option<c_int> {
    let hint = hints()
        .as_ref()
        .and_then(|hints| hints.get(&theirs).copied());
    if let Some(own) = hint.filter(|&own| FDS.may_be_ours(own) && same(tid, theirs, own)) {
        return Some(own);
    }
    if !may_be_ours(tid, theirs) {
        return None;
    }
    let found = FDS
        .of_objects()
        .into_iter()
        .find(|&own| same(tid, theirs, own))?;
    note(theirs, found);
    Some(found)
}

/// Whether the kernel has one open file behind both numbers.
fn same(tid: i32, theirs: c_int, own: c_int) -> bool {
    let me = shm::sys::getpid() as usize;
    let words = [
        tid as usize,
        me,
        KCMP_FILE,
        theirs as usize,
        own as usize,
        0,
    ];
    theirs >= 0 && raw::checked(libc::SYS_kcmp, words) == Ok(0)
}

/// Whether kcmp(2) tells us about a process.
pub fn is_comparable(pid: i32) -> bool {
    let me = shm::sys::getpid() as usize;
    let words = [pid as usize, me, KCMP_FILE, 0, 0, 0];
    // No such fd is an answer, too.
    !matches!(
        raw::checked(libc::SYS_kcmp, words),
        Err(uapi::Errno::EPERM | uapi::Errno::ENOSYS)
    )
}

/// Whether a file is of a kind that objects have: an eventfd, a pipe, a file
/// without a name or one of a session.
fn may_be_ours(tid: i32, theirs: c_int) -> bool {
    let Ok(to) = std::fs::read_link(format!("/proc/{tid}/fd/{theirs}")) else {
        return false;
    };
    let to = to.as_os_str().as_bytes();
    let kinds = [&b"anon_inode:[eventfd]"[..], b"pipe:[", b"/memfd:"];
    kinds.iter().any(|kind| to.starts_with(kind))
        || supervisor::sessions_directory()
            .is_some_and(|directory| to.starts_with(directory.as_os_str().as_bytes()))
}

/// Whether `own` is open in one of the processes, other than as `except` of
/// the first.
pub fn is_held(own: c_int, processes: &[i32], except: Option<c_int>) -> bool {
    let of_first = processes.first();
    processes.iter().any(|pid| {
        let numbers = fds_of(*pid);
        numbers
            .into_iter()
            .filter(|&theirs| of_first != Some(pid) || Some(theirs) != except)
            .any(|theirs| same(*pid, theirs, own))
    })
}

fn fds_of(pid: i32) -> Vec<c_int> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
