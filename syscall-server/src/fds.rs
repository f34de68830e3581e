//! Which fds of the process are ours, and what each stands for. It knows no
//! command.
//!
//! Looking at an fd that is not ours takes no lock, so the interposed calls
//! stay as async-signal-safe for those as libc's are.

use std::cell::Cell;
use std::ffi::{CString, OsString, c_int};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime::command::{MapObject, Object};
use uapi::Errno;
use uapi::map::{BPF_F_RDONLY, BPF_F_WRONLY};

use crate::bridge::Waker;
use crate::tracefs::writing::Writing;
use crate::{caller, raw};

/// What one open file of ours is; duplicates of an fd share it.
pub struct File {
    /// The object it refers to.
    pub object: Object,
    /// What bpf(2) may do with a map through it.
    pub rights: Rights,
    /// Makes the fd readable while the ring behind it has data.
    pub waker: Option<Arc<Waker>>,
}

/// The mode of an open file (kernel: `FMODE_CAN_READ`, `FMODE_CAN_WRITE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Elements may be read.
    pub read: bool,
    /// And changed.
    pub write: bool,
}

impl Rights {
    /// Both.
    pub const ALL: Rights = Rights {
        read: true,
        write: true,
    };

    /// What `BPF_F_RDONLY` and `BPF_F_WRONLY` leave (`bpf_get_file_flag`).
    ///
    /// # Errors
    /// EINVAL for other flags, and for both.
    pub fn of(flags: u32) -> Result<Rights, Errno> {
        match flags {
            0 => Ok(Rights::ALL),
            BPF_F_RDONLY => Ok(Rights {
                write: false,
                ..Rights::ALL
            }),
            BPF_F_WRONLY => Ok(Rights {
                read: false,
                ..Rights::ALL
            }),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// An fd that is ours but not the tool's: it cannot close it.
pub struct PrivateFd(c_int);

/// fds beyond this number are never ours.
const MAX_FDS: usize = 1 << 16;
/// Where private fds begin, out of the way of programs that count on the
/// lowest free number.
const PRIVATE_FDS: c_int = 600;

/// Makes the process's table of fds large enough for ours, while it has one
/// thread: where there are more, the kernel waits whenever a table grows until
/// nobody can read the old one, which takes 10 to 20 ms (`expand_fdtable`, fs/file.c).
pub fn make_room() {
    // Any open fd will do, and tables do not shrink. Without one, ours come later.
    let duplicate = |fd: usize| {
        let words = [
            fd,
            libc::F_DUPFD_CLOEXEC as usize,
            PRIVATE_FDS as usize,
            0,
            0,
            0,
        ];
        raw::checked(libc::SYS_fcntl, words).ok()
    };
    if let Some(fd) = (0..3).find_map(duplicate) {
        raw::close(fd as c_int);
    }
}

thread_local! {
    /// This thread's fds are not the process's.
    static OTHER_TABLE: Cell<bool> = const { Cell::new(false) };
}

/// Gives the calling thread, which must have no use for any other fd, a table
/// of fds of its own with `keep` in it, and nothing where the standard ones are.
///
/// # Errors
/// ENOSYS before Linux 5.9, ENOMEM.
pub fn leave_table(keep: c_int) -> Result<(), Errno> {
    /// `CLOSE_RANGE_UNSHARE`.
    const UNSHARE: usize = 2;
    let range = |first: usize, last: usize| {
        let words = [first, last, UNSHARE, 0, 0, 0];
        raw::checked(libc::SYS_close_range, words).map(drop)
    };
    range(keep as usize + 1, u32::MAX as usize)?;
    OTHER_TABLE.set(true);
    if let Some(before) = (keep as usize).checked_sub(1) {
        range(0, before)?;
    }
    for _ in 0..3 {
        let path = c"/dev/null".as_ptr() as usize;
        let flags = libc::O_RDWR as usize;
        raw::checked(libc::SYS_openat, [usize::MAX, path, flags, 0, 0, 0])?;
    }
    Ok(())
}

#[derive(Clone)]
enum Entry {
    File(Arc<File>),
    Writing(Arc<Writing>),
    Private,
}

/// The fds of the process that are ours.
pub struct Fds {
    /// One bit per fd: a hint that needs no lock.
    ours: [AtomicU64; MAX_FDS / 64],
    /// By number.
    entries: Mutex<Vec<Option<Entry>>>,
}

/// The one table of the process; as fds are global, so is it.
pub static FDS: Fds = Fds {
    ours: [const { AtomicU64::new(0) }; MAX_FDS / 64],
    entries: Mutex::new(Vec::new()),
};

impl Fds {
    /// Whether `fd` may be ours; false for most, without a lock.
    pub fn may_be_ours(&self, fd: c_int) -> bool {
        let Ok(fd) = usize::try_from(fd) else {
            return false;
        };
        // Pairs with the stores in `insert` and `remove`: a thread that got
        // the number from another got it after the store.
        fd < MAX_FDS
            && self.ours[fd / 64].load(Ordering::Acquire) & (1 << (fd % 64)) != 0
            && !OTHER_TABLE.get()
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Option<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `fd` stands for to the caller.
    pub fn get(&self, fd: c_int) -> Option<Arc<File>> {
        self.look(fd, Arc::clone)
    }

    /// What `look`, which may not come back here, sees in what `fd` stands for
    /// to the caller.
    pub fn look<T>(&self, fd: c_int, look: impl FnOnce(&Arc<File>) -> T) -> Option<T> {
        let fd = caller::own_fd(fd)?;
        if !self.may_be_ours(fd) {
            return None;
        }
        match self.entries().get(usize::try_from(fd).ok()?)? {
            Some(Entry::File(file)) => Some(look(file)),
            Some(Entry::Private | Entry::Writing(_)) | None => None,
        }
    }

    /// What `fd` writes to, if that is a file of tracefs.
    pub fn writing(&self, fd: c_int) -> Option<Arc<Writing>> {
        if !self.may_be_ours(fd) {
            return None;
        }
        match self.entries().get(usize::try_from(fd).ok()?)? {
            Some(Entry::Writing(writing)) => Some(Arc::clone(writing)),
            _ => None,
        }
    }

    /// Enters a new fd of a file of tracefs. On failure the fd is closed.
    ///
    /// # Errors
    /// As [`Fds::insert`].
    pub fn insert_writing(&self, fd: c_int, writing: Arc<Writing>) -> Result<(), Errno> {
        self.put(fd, Entry::Writing(writing))
            .inspect_err(|_| raw::close(fd))
    }

    /// Whether the tool may not touch `fd`.
    pub fn is_private(&self, fd: c_int) -> bool {
        self.may_be_ours(fd)
            && matches!(self.entries().get(fd as usize), Some(Some(Entry::Private)))
    }

    /// Enters a new fd. On failure the fd is closed.
    ///
    /// # Errors
    /// EMFILE for a number beyond those we keep.
    pub fn insert(&self, fd: c_int, file: Arc<File>) -> Result<(), Errno> {
        self.put(fd, Entry::File(file))
            .inspect_err(|_| raw::close(fd))
    }

    fn put(&self, fd: c_int, entry: Entry) -> Result<(), Errno> {
        let slot = usize::try_from(fd).ok().filter(|&fd| fd < MAX_FDS);
        let Some(slot) = slot else {
            return Err(Errno::EMFILE);
        };
        let mut entries = self.entries();
        if entries.len() <= slot {
            entries.resize_with(slot + 1, || None);
        }
        let old = entries[slot].replace(entry);
        drop(entries);
        self.ours[slot / 64].fetch_or(1 << (slot % 64), Ordering::Release);
        // Dropped with the table unlocked: an object's end takes other locks.
        drop(old);
        Ok(())
    }

    /// Forgets an fd that is closed or replaced; its object goes with the
    /// last fd, unless something else refers to it.
    pub fn remove(&self, fd: c_int) {
        if !self.may_be_ours(fd) {
            return;
        }
        let mut entries = self.entries();
        let slot = fd as usize;
        self.ours[slot / 64].fetch_and(!(1 << (slot % 64)), Ordering::Release);
        let old = entries.get_mut(slot).and_then(Option::take);
        drop(entries);
        drop(old);
    }

    /// `new` is now a duplicate of `old` (dup2(2) and its kin).
    pub fn duplicated(&self, old: c_int, new: c_int) -> Result<(), Errno> {
        let is_seen = |fd: c_int| self.may_be_ours(fd).then_some(fd as usize);
        let entry = is_seen(old).and_then(|old| self.entries().get(old)?.clone());
        match entry {
            Some(Entry::Private) | None => {
                self.remove(new);
                Ok(())
            }
            Some(entry) => self.put(new, entry).inspect_err(|_| raw::close(new)),
        }
    }

    /// Makes private every fd that is open on a file under one of `directories`.
    pub fn protect(&self, directories: &[&Path]) {
        let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            let inside = |to: &Path| directories.iter().any(|dir| to.starts_with(dir));
            if let Some(fd) = number
                && file_of(fd).is_some_and(|path| inside(&path))
            {
                // Fails for numbers that no tool uses.
                let _ = self.put(fd, Entry::Private);
            }
        }
    }

    /// The fds of a map, and what may be done through each.
    pub fn of_map(&self, map: &Arc<MapObject>) -> Vec<(c_int, Rights)> {
        let entries = self.entries();
        let of_it = |(fd, entry): (c_int, &Option<Entry>)| match entry {
            Some(Entry::File(file)) => match &file.object {
                Object::Map(other) if Arc::ptr_eq(other, map) => Some((fd, file.rights)),
                _ => None,
            },
            _ => None,
        };
        (0..).zip(entries.iter()).filter_map(of_it).collect()
    }

    /// The numbers of all objects' fds.
    pub fn of_objects(&self) -> Vec<c_int> {
        let entries = self.entries();
        let is_object = |entry: &Option<Entry>| matches!(entry, Some(Entry::File(_)));
        let all = (0..).zip(entries.iter());
        all.filter(|(_, entry)| is_object(entry))
            .map(|(fd, _)| fd)
            .collect()
    }

    /// Our fds from `first` to `last`, ascending.
    pub fn in_range(&self, first: c_int, last: c_int) -> Vec<c_int> {
        let entries = self.entries();
        let taken = (0..)
            .zip(entries.iter())
            .filter(|(_, entry)| entry.is_some());
        taken
            .map(|(fd, _)| fd)
            .filter(|fd| (first..=last).contains(fd))
            .collect()
    }
}

/// The table, locked while a fork copies it.
pub struct Locked(
    #[expect(dead_code, reason = "held, not looked at")] MutexGuard<'static, Vec<Option<Entry>>>,
);

impl Fds {
    /// Keeps the table from changing until the result is dropped.
    pub fn lock(&'static self) -> Locked {
        Locked(self.entries())
    }
}

/// The file that an fd is open on, as the kernel names it.
fn file_of(fd: c_int) -> Option<PathBuf> {
    let link = CString::new(format!("/proc/self/fd/{fd}")).ok()?;
    let mut to = vec![0u8; libc::PATH_MAX as usize];
    let words = [
        libc::AT_FDCWD as usize,
        link.as_ptr() as usize,
        to.as_mut_ptr() as usize,
        to.len(),
        0,
        0,
    ];
    to.truncate(raw::checked(libc::SYS_readlinkat, words).ok()?);
    Some(OsString::from_vec(to).into())
}

impl PrivateFd {
    /// A duplicate of `fd` that the tool cannot close, closed on exec.
    ///
    /// # Errors
    /// EMFILE when the process has no more fds.
    pub fn duplicate(fd: c_int) -> Result<PrivateFd, Errno> {
        let duplicate = |least: c_int| {
            raw::checked(
                libc::SYS_fcntl,
                [
                    fd as usize,
                    libc::F_DUPFD_CLOEXEC as usize,
                    least as usize,
                    0,
                    0,
                    0,
                ],
            )
        };
        // EINVAL: the limit on fds is below our usual place.
        let fd = match duplicate(PRIVATE_FDS) {
            Err(Errno::EINVAL | Errno::EMFILE) => duplicate(3)?,
            other => other?,
        } as c_int;
        FDS.put(fd, Entry::Private)
            .inspect_err(|_| raw::close(fd))?;
        Ok(PrivateFd(fd))
    }

    /// The number.
    pub fn raw(&self) -> c_int {
        self.0
    }
}

impl Drop for PrivateFd {
    fn drop(&mut self) {
        FDS.remove(self.0);
        raw::close(self.0);
    }
}

/// A new file of `bytes` zeros that can be mapped, closed on exec.
///
/// # Errors
/// EMFILE when the process has no more fds, EFBIG when its files may not be so
/// large.
pub fn memory_file(bytes: u64) -> Result<c_int, Errno> {
    if !shm::sys::may_grow_to(bytes) {
        return Err(Errno::EFBIG);
    }
    let name = c"bpftime".as_ptr() as usize;
    let flags = libc::MFD_CLOEXEC as usize;
    let fd = raw::checked(libc::SYS_memfd_create, [name, flags, 0, 0, 0, 0])?;
    let sized = raw::checked(libc::SYS_ftruncate, [fd, bytes as usize, 0, 0, 0, 0]);
    sized.inspect_err(|_| raw::close(fd as c_int))?;
    Ok(fd as c_int)
}

/// A new eventfd, closed on exec.
///
/// # Errors
/// EMFILE when the process has no more fds.
pub fn eventfd() -> Result<c_int, Errno> {
    let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
    raw::checked(libc::SYS_eventfd2, [0, flags as usize, 0, 0, 0, 0]).map(|fd| fd as c_int)
}

/// A new pipe of one slot, closed on exec: its end for reading and that for
/// writing. The latter is writable while the pipe is empty.
///
/// # Errors
/// EMFILE when the process has no more fds.
pub fn pipe() -> Result<[c_int; 2], Errno> {
    let mut ends = [0; 2];
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let to = ends.as_mut_ptr() as usize;
    raw::checked(libc::SYS_pipe2, [to, flags as usize, 0, 0, 0, 0])?;
    let resize = libc::F_SETPIPE_SZ as usize;
    let sized = raw::checked(libc::SYS_fcntl, [ends[0] as usize, resize, 4096, 0, 0, 0]);
    match sized {
        Ok(_) => Ok(ends),
        Err(errno) => {
            ends.into_iter().for_each(raw::close);
            Err(errno)
        }
    }
}
