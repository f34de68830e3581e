//! A process that sees other files or other process ids than the tools: in a
//! container, or with a root of its own. Whoever attached to it from outside
//! handed two files over, which it keeps: the sessions directory as a mount of
//! its own, from which no path leads out, and the symbolic link
//! `/proc/thread-self` of the tools' /proc, which can be read and nothing
//! else: it names the reading thread as the tools see it. It knows no session.
//!
//! [`ids`] is callable from trampolines: no allocation, no lock, no libc.

use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use shm::sys;
use uapi::Errno;

use crate::session::{Dirs, Roster, SessionError, file};
use crate::thread::ThreadIds;

/// Longest path, with its zero.
const PATH_MAX: usize = libc::PATH_MAX as usize;
/// Kept fds are near the end of the numbers up to this one, or to the process's
/// limit: programs expect the low ones in order.
const HIGH: u64 = 1024;
const BELOW: u64 = 32;
/// Name prefix of a guest's mark in the sessions directory.
const MARK: &str = "guest-";

/// What a guest is handed: fds that are its own and that it may copy, and where
/// its library is for the tools.
#[repr(C)]
pub struct Handed {
    /// The sessions directory.
    pub sessions: RawFd,
    /// The link.
    pub thread_self: RawFd,
    /// The roster's file.
    pub roster: RawFd,
    /// The agent's library.
    pub library: RawFd,
    uids: Ids,
    gids: Ids,
    path: [u8; PATH_MAX],
}

/// How ids of users or groups in a user namespace are called outside:
/// user_namespaces(7), as far as they fit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ids([[u32; 3]; 8]);

impl Ids {
    /// From the text of `/proc/PID/uid_map`, read outside.
    pub fn parse(text: &str) -> Ids {
        let mut ids = Ids::default();
        for (range, line) in ids.0.iter_mut().zip(text.lines()) {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            for number in range {
                *number = numbers.next().and_then(Result::ok).unwrap_or(0);
            }
        }
        ids
    }

    /// What `id` is outside; itself if it is not known.
    fn outside(&self, id: u32) -> u32 {
        let ranges = self.0.iter();
        let mut found = ranges.filter_map(|&[inside, outside, count]| {
            let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
            outside.checked_add(offset)
        });
        found.next().unwrap_or(id)
    }
}

impl Handed {
    /// For the library at `path`; `None` if that is too long.
    pub fn new(
        [sessions, thread_self, roster, library]: [RawFd; 4],
        path: &Path,
        [uids, gids]: [Ids; 2],
    ) -> Option<Self> {
        let mut bytes = [0; PATH_MAX];
        let name = path.as_os_str().as_bytes();
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        (name.len() < PATH_MAX).then_some(Self {
            sessions,
            thread_self,
            roster,
            library,
            uids,
            gids,
            path: bytes,
        })
    }

    /// As it lies in memory.
    pub fn bytes(&self) -> &[u8] {
        let at = std::ptr::from_ref(self).cast::<u8>();
        // SAFETY: the bytes of a value without padding.
        unsafe { std::slice::from_raw_parts(at, size_of::<Self>()) }
    }

    /// The library's path.
    pub fn path(&self) -> Option<CString> {
        let name = std::ffi::CStr::from_bytes_until_nul(&self.path).ok()?;
        Some(name.to_owned())
    }
}

/// Set once, for good: ids of before stay right.
static IS_GUEST: AtomicBool = AtomicBool::new(false);
static THREAD_SELF: AtomicI32 = AtomicI32::new(-1);
static SESSIONS: AtomicI32 = AtomicI32::new(-1);
/// Device and inode of the two, to tell them from what the process opens under
/// their numbers after it closed them.
static FILES: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// The process's id as tools see it.
static HOST_PID: AtomicI32 = AtomicI32::new(0);

/// Users' and groups' ids; written before this process is one, and only once.
static IDS: OnceLock<[Ids; 2]> = OnceLock::new();

/// What the ids of a user and a group are for the tools.
#[inline]
pub fn outside(uid: u32, gid: u32) -> (u32, u32) {
    match IDS.get() {
        Some([uids, gids]) => (uids.outside(uid), gids.outside(gid)),
        None => (uid, gid),
    }
}

/// Whether this process is one.
#[inline]
pub fn is_guest() -> bool {
    IS_GUEST.load(Ordering::Relaxed)
}

/// Makes this process one. It keeps copies of the fds of the directory and the
/// link; the others are left to who made them.
///
/// # Errors
/// Without room for fds, or a roster of another version.
pub fn adopt(handed: &Handed) -> Result<(Dirs, Roster), SessionError> {
    let path = handed
        .path()
        .map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes())))
        .unwrap_or_default();
    let failed = |errno| SessionError::file("keep", &path, errno);
    let roster = Roster::of_file(handed.roster, &path)?;
    // Before there are others under the same numbers.
    close_kept();
    let copies = [handed.sessions, handed.thread_self]
        .map(|fd| file::copy_up(fd, least_fd()).map_err(failed));
    let [sessions, thread_self] = copies;
    let (sessions, thread_self) = (sessions?, thread_self?);
    let (pid, _) = read(thread_self.as_raw_fd()).ok_or_else(|| failed(Errno::EINVAL))?;
    for (index, fd) in [&sessions, &thread_self].into_iter().enumerate() {
        let stat = file::fstat(fd).map_err(failed)?;
        note(index, (stat.dev, stat.ino));
    }
    // A process that moved on to another user namespace keeps the first.
    IDS.get_or_init(|| [handed.uids, handed.gids]);
    HOST_PID.store(pid, Ordering::Release);
    SESSIONS.store(sessions.into_raw_fd(), Ordering::Release);
    THREAD_SELF.store(thread_self.into_raw_fd(), Ordering::Release);
    IS_GUEST.store(true, Ordering::Release);
    let mut dirs = Dirs::for_library(Some(&path));
    dirs.sessions = sessions_path();
    Ok((dirs, roster))
}

fn sessions_path() -> PathBuf {
    let fd = SESSIONS.load(Ordering::Acquire);
    // Its last part is no symbolic link.
    PathBuf::from(format!("/proc/thread-self/fd/{fd}/."))
}

fn note(index: usize, (dev, ino): (u64, u64)) {
    for (word, value) in FILES.iter().skip(2 * index).zip([dev, ino]) {
        word.store(value, Ordering::Release);
    }
}

fn noted(index: usize) -> (u64, u64) {
    let word = |at: usize| FILES.get(at).map_or(0, |word| word.load(Ordering::Acquire));
    (word(2 * index), word(2 * index + 1))
}

fn least_fd() -> RawFd {
    // SAFETY: all-zero is a valid value, and getrlimit fills it.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    // SAFETY: `limit` lives on this stack frame.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    let end = if known { limit.rlim_cur } else { HIGH };
    let end = end.min(HIGH);
    end.saturating_sub(BELOW).max(end / 2) as RawFd
}

/// The kept fd if it still is what it was.
fn kept(index: usize) -> Option<RawFd> {
    let fds = [&SESSIONS, &THREAD_SELF];
    let fd = fds.get(index)?.load(Ordering::Acquire);
    let stat = file::fstat_raw(fd).ok()?;
    ((stat.dev, stat.ino) == noted(index)).then_some(fd)
}

/// Why this process cannot follow sessions any more, if so.
pub fn lost() -> Option<&'static str> {
    if !is_guest() {
        return None;
    }
    let Some((sessions, _)) = kept(0).zip(kept(1)) else {
        return Some(
            "this process closed the files by which its agent reaches tools; attach again",
        );
    };
    // A directory that was removed has no name.
    let there = file::fstat_raw(sessions).is_ok_and(|stat| stat.nlink > 0);
    (!there).then_some("the sessions directory was removed and made again; attach again")
}

/// Closes what was kept. The process may have closed it and opened others under
/// the numbers: these stay.
pub fn close_kept() {
    for (index, fd) in [&SESSIONS, &THREAD_SELF].into_iter().enumerate() {
        if kept(index).is_some() {
            file::close(fd.load(Ordering::Acquire));
        }
        fd.store(-1, Ordering::Release);
    }
}

/// Marks the sessions directory, so that it is not removed with the last
/// session while the guest `pid` lives.
pub fn mark(sessions: &Path, pid: i32) {
    // Without it `lost` will tell.
    let _ = file::c_path(&mark_of(sessions, pid)).and_then(|path| file::mkdir(&path, 0o700));
}

/// Takes the mark away.
pub fn unmark(sessions: &Path, pid: i32) {
    // It may not be there.
    let _ = file::c_path(&mark_of(sessions, pid)).and_then(|path| file::rmdir(&path));
}

fn mark_of(sessions: &Path, pid: i32) -> PathBuf {
    sessions.join(format!("{MARK}{pid}"))
}

/// The process that a name in the sessions directory is the mark of.
pub(crate) fn marked(name: &[u8]) -> Option<i32> {
    let (pid, rest) = number(name.strip_prefix(MARK.as_bytes())?)?;
    rest.is_empty().then_some(pid)
}

/// This process's id as tools see it.
pub fn pid() -> i32 {
    ids().map_or_else(sys::getpid, |ids| ids.pid)
}

/// The calling thread of a guest as tools see it; `None` in other processes.
/// When the process has closed the link, the thread has no name, but a number of
/// its own.
pub fn ids() -> Option<ThreadIds> {
    if !is_guest() {
        return None;
    }
    if let Some((pid, tid)) = read(THREAD_SELF.load(Ordering::Acquire)) {
        HOST_PID.store(pid, Ordering::Release);
        return Some(ThreadIds { pid, tid });
    }
    Some(ThreadIds {
        pid: HOST_PID.load(Ordering::Acquire),
        tid: sys::gettid() | ThreadIds::NAMELESS,
    })
}

/// What the link says: `PID/task/TID`.
fn read(fd: RawFd) -> Option<(i32, i32)> {
    let mut text = [0u8; 64];
    // SAFETY: the kernel reads one zero byte and writes at most the buffer.
    let len = unsafe {
        sys::syscall6(
            libc::SYS_readlinkat as usize,
            fd as usize,
            c"".as_ptr() as usize,
            text.as_mut_ptr() as usize,
            text.len(),
            0,
            0,
        )
    };
    let text = text.get(..usize::try_from(len).ok()?)?;
    let (pid, rest) = number(text)?;
    let (tid, rest) = number(rest.strip_prefix(b"/task/")?)?;
    rest.is_empty().then_some((pid, tid))
}

/// A positive number at the beginning, and what follows.
fn number(text: &[u8]) -> Option<(i32, &[u8])> {
    let mut value = 0i32;
    let mut rest = text;
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        value = value
            .checked_mul(10)?
            .checked_add(i32::from(digit - b'0'))?;
        rest = after;
    }
    (value > 0).then_some((value, rest))
}

/// The link, for who hands it over.
///
/// # Errors
/// As open(2).
pub fn thread_self() -> Result<OwnedFd, Errno> {
    let link = c"/proc/thread-self";
    file::open(link, libc::O_PATH | libc::O_NOFOLLOW, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_names_the_reading_thread() {
        let link = thread_self().unwrap();
        assert_eq!(read(link.as_raw_fd()), Some((sys::getpid(), sys::gettid())));
        let there = std::thread::scope(|scope| {
            let other = scope.spawn(|| (read(link.as_raw_fd()), sys::gettid()));
            other.join().unwrap()
        });
        assert_eq!(there.0, Some((sys::getpid(), there.1)));
        // Nothing can be opened from it.
        for path in ["..", "status", "."] {
            let path = format!("/proc/self/fd/{}/{path}", link.as_raw_fd());
            let error = std::fs::metadata(path).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
        }
    }

    #[test]
    fn numbers_in_the_link() {
        assert_eq!(number(b"12/task/3"), Some((12, &b"/task/3"[..])));
        for none in [&b""[..], b"/", b"0", b"99999999999"] {
            assert_eq!(number(none), None);
        }
    }

    #[test]
    fn ids_of_users() {
        let ids =
            Ids::parse("         0       1000          1\n         1     100000      65536\n");
        for (inside, outside) in [(0, 1000), (1, 100_000), (65_536, 165_535), (65_537, 65_537)] {
            assert_eq!(ids.outside(inside), outside);
        }
        assert_eq!(Ids::parse("0 0 4294967295").outside(1002), 1002);
        assert_eq!(Ids::default().outside(7), 7);
    }

    #[test]
    fn marks_name_a_process() {
        assert_eq!(mark_of(Path::new("/s"), 12), Path::new("/s/guest-12"));
        assert_eq!(marked(b"guest-12"), Some(12));
        for other in [&b"12-345"[..], b"guest-12-1", b"guest-0", b"guest-"] {
            assert_eq!(marked(other), None);
        }
    }
}
