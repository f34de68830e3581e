//! Files by raw system calls: in a tool and in a target the libc functions
//! may be intercepted or probed. It knows no session.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use uapi::Errno;

/// A kernel call with the errno as the error.
///
/// # Safety
/// As the system call `nr` demands of its arguments.
pub(crate) unsafe fn call(nr: libc::c_long, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller vouches for the arguments.
    let ret = unsafe {
        shm::sys::syscall6(
            nr as usize,
            args[0],
            args[1],
            args[2],
            args[3],
            args[4],
            args[5],
        )
    };
    let ret = ret as isize;
    if (-4095..0).contains(&ret) {
        Err(Errno(-ret as i32))
    } else {
        Ok(ret as usize)
    }
}

/// `path` for the kernel; a path with a zero byte names nothing.
pub(crate) fn c_path(path: &Path) -> Result<CString, Errno> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::ENOENT)
}

/// What fstat(2) says, as far as we look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device number, kernel encoding of `st_dev`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Number of names.
    pub nlink: u64,
    /// Size in bytes.
    pub size: u64,
    /// When its contents changed last, in nanoseconds since 1970.
    pub modified: u64,
    /// When it changed last in any way.
    pub changed: u64,
}

/// fstatat(2).
pub(crate) fn stat_at(dirfd: RawFd, path: &CStr, flags: i32) -> Result<Stat, Errno> {
    // SAFETY: an all-zero stat is a valid value.
    let mut raw: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads `path` up to its zero and writes one stat.
    unsafe {
        call(
            libc::SYS_newfstatat,
            [
                dirfd as usize,
                path.as_ptr() as usize,
                &raw mut raw as usize,
                flags as usize,
                0,
                0,
            ],
        )
    }?;
    Ok(Stat {
        dev: raw.st_dev,
        ino: raw.st_ino,
        mode: raw.st_mode,
        uid: raw.st_uid,
        nlink: raw.st_nlink,
        size: raw.st_size as u64,
        modified: nanoseconds(raw.st_mtime, raw.st_mtime_nsec),
        changed: nanoseconds(raw.st_ctime, raw.st_ctime_nsec),
    })
}

fn nanoseconds(seconds: i64, rest: i64) -> u64 {
    seconds.wrapping_mul(1_000_000_000).wrapping_add(rest) as u64
}

/// stat(2): follows symbolic links.
pub fn stat(path: &CStr) -> Result<Stat, Errno> {
    stat_at(libc::AT_FDCWD, path, 0)
}

/// lstat(2).
pub(crate) fn lstat(path: &CStr) -> Result<Stat, Errno> {
    stat_at(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW)
}

/// fstat(2).
pub(crate) fn fstat(fd: &OwnedFd) -> Result<Stat, Errno> {
    stat_at(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

/// [`fstat`] of a number that may be no fd, or anybody's.
pub(crate) fn fstat_raw(fd: RawFd) -> Result<Stat, Errno> {
    stat_at(fd, c"", libc::AT_EMPTY_PATH)
}

/// open(2) with `O_CLOEXEC` added.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    open_in(libc::AT_FDCWD, path, flags, mode)
}

/// openat(2) of what is there, with `O_CLOEXEC` added.
///
/// # Errors
/// As openat(2).
pub fn open_at(directory: RawFd, path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    open_in(directory, path, flags, 0)
}

fn open_in(directory: RawFd, path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads `path` up to its zero.
    let fd = unsafe {
        call(
            libc::SYS_openat,
            [
                directory as usize,
                path.as_ptr() as usize,
                (flags | libc::O_CLOEXEC) as usize,
                mode as usize,
                0,
                0,
            ],
        )
    }?;
    // SAFETY: the kernel just gave us this fd; nobody else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The whole of a file of /proc or /sys, whose size is not known before, at
/// most `limit` bytes.
///
/// # Errors
/// As open(2) and read(2).
pub fn read_small(path: &CStr, limit: usize) -> Result<Vec<u8>, Errno> {
    read_upto(&open(path, libc::O_RDONLY, 0)?, limit)
}

/// What is left to read of an open file, at most `limit` bytes.
pub(crate) fn read_upto(fd: &OwnedFd, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 4096];
    while bytes.len() < limit {
        match read(fd, &mut chunk)? {
            0 => break,
            n => bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
        }
    }
    bytes.truncate(limit);
    Ok(bytes)
}

/// The whole of a regular file. A copy, not a mapping: a mapping of a file
/// that someone truncates is a SIGBUS.
///
/// # Errors
/// As open(2) and read(2); `EINVAL` for what is not a regular file.
pub fn read_all(path: &CStr) -> Result<Vec<u8>, Errno> {
    let fd = open(path, libc::O_RDONLY | libc::O_NONBLOCK, 0)?;
    let stat = fstat(&fd)?;
    if stat.mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0u8; usize::try_from(stat.size).map_err(|_| Errno::ENOMEM)?];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match read(&fd, rest)? {
            0 => break,
            n => filled += n,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn read(fd: &OwnedFd, to: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: the kernel writes at most the slice's length into it.
        match unsafe {
            call(
                libc::SYS_read,
                [
                    fd.as_raw_fd() as usize,
                    to.as_mut_ptr() as usize,
                    to.len(),
                    0,
                    0,
                    0,
                ],
            )
        } {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn path_call(nr: libc::c_long, path: &CStr, third: usize) -> Result<(), Errno> {
    // SAFETY: the kernel reads `path` up to its zero; only calls of the
    // shape (dirfd, path, number) come here.
    unsafe {
        call(
            nr,
            [
                libc::AT_FDCWD as usize,
                path.as_ptr() as usize,
                third,
                0,
                0,
                0,
            ],
        )
    }
    .map(drop)
}

/// mkdir(2).
pub(crate) fn mkdir(path: &CStr, mode: u32) -> Result<(), Errno> {
    path_call(libc::SYS_mkdirat, path, mode as usize)
}

/// chmod(2).
pub(crate) fn chmod(path: &CStr, mode: u32) -> Result<(), Errno> {
    path_call(libc::SYS_fchmodat, path, mode as usize)
}

/// Whether the effective user may write in a directory.
pub(crate) fn access_write(path: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads `path` up to its zero.
    unsafe {
        call(
            libc::SYS_faccessat2,
            [
                libc::AT_FDCWD as usize,
                path.as_ptr() as usize,
                (libc::W_OK | libc::X_OK) as usize,
                libc::AT_EACCESS as usize,
                0,
                0,
            ],
        )
    }
    .map(drop)
    .or_else(|errno| match errno {
        // Linux before 5.8: the first real use will tell.
        Errno::ENOSYS => Ok(()),
        errno => Err(errno),
    })
}

/// unlink(2).
pub(crate) fn unlink(path: &CStr) -> Result<(), Errno> {
    path_call(libc::SYS_unlinkat, path, 0)
}

/// rmdir(2).
pub(crate) fn rmdir(path: &CStr) -> Result<(), Errno> {
    path_call(libc::SYS_unlinkat, path, libc::AT_REMOVEDIR as usize)
}

/// linkat(2): another name, in a directory, for a file.
pub(crate) fn link(file: &CStr, directory: RawFd, name: &CStr) -> Result<(), Errno> {
    let args = [
        libc::AT_FDCWD as usize,
        file.as_ptr() as usize,
        directory as usize,
        name.as_ptr() as usize,
        0,
        0,
    ];
    // SAFETY: the kernel reads both names up to their zeros.
    unsafe { call(libc::SYS_linkat, args) }.map(drop)
}

/// rename(2).
pub(crate) fn rename(from: &CStr, to: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads both paths up to their zeros.
    unsafe {
        call(
            libc::SYS_renameat,
            [
                libc::AT_FDCWD as usize,
                from.as_ptr() as usize,
                libc::AT_FDCWD as usize,
                to.as_ptr() as usize,
                0,
                0,
            ],
        )
    }
    .map(drop)
}

fn fd_call(nr: libc::c_long, fd: &OwnedFd, args: [usize; 3]) -> Result<usize, Errno> {
    // SAFETY: only calls whose arguments after the fd are numbers come here,
    // and the one of `append`, whose bytes it reads.
    unsafe {
        call(
            nr,
            [fd.as_raw_fd() as usize, args[0], args[1], args[2], 0, 0],
        )
    }
}

/// flock(2).
pub(crate) fn flock(fd: &OwnedFd, operation: i32) -> Result<(), Errno> {
    fd_call(libc::SYS_flock, fd, [operation as usize, 0, 0]).map(drop)
}

/// EFBIG where a file may not end at `end`, before the kernel sends a signal for it.
fn may_grow_to(end: u64) -> Result<(), Errno> {
    match shm::sys::may_grow_to(end) {
        true => Ok(()),
        false => Err(Errno::EFBIG),
    }
}

/// flock(2), exclusively, for which it waits at most so long.
///
/// # Errors
/// EAGAIN when another has it for longer.
pub(crate) fn flock_soon(fd: &OwnedFd, most: Duration) -> Result<(), Errno> {
    const STEP: Duration = Duration::from_millis(1);
    let begin = Instant::now();
    loop {
        match flock(fd, libc::LOCK_EX | libc::LOCK_NB) {
            Err(Errno::EAGAIN) if begin.elapsed() < most => sleep(STEP),
            other => return other,
        }
    }
}

/// Sleeps so long, or shorter; also in a forked child.
pub(crate) fn sleep(time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    // SAFETY: the kernel reads one timespec.
    let _ = unsafe {
        call(
            libc::SYS_nanosleep,
            [&raw const time as usize, 0, 0, 0, 0, 0],
        )
    };
}

/// ftruncate(2).
pub(crate) fn ftruncate(fd: &OwnedFd, bytes: u64) -> Result<(), Errno> {
    may_grow_to(bytes)?;
    fd_call(libc::SYS_ftruncate, fd, [bytes as usize, 0, 0]).map(drop)
}

/// Appends to a file of ours, made 0600 when it is missing.
///
/// # Errors
/// As open(2) and write(2).
pub fn append(path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_NOFOLLOW;
    let fd = open(&c_path(path)?, flags, 0o600)?;
    may_grow_to(fstat(&fd)?.size.saturating_add(bytes.len() as u64))?;
    fd_call(
        libc::SYS_write,
        &fd,
        [bytes.as_ptr() as usize, bytes.len(), 0],
    )
    .map(drop)
}

/// Makes `bytes` all that a file of ours holds, at once for whoever reads it:
/// 0600, in a directory that is made 0700 when it is missing.
///
/// # Errors
/// As open(2), write(2) and rename(2).
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    may_grow_to(bytes.len() as u64)?;
    let directory = c_path(path.parent().ok_or(Errno::ENOENT)?)?;
    match mkdir(&directory, 0o700) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error),
    }
    replace_in(path, bytes)
}

/// As [`replace`], in a directory that is there.
pub(crate) fn replace_in(path: &Path, bytes: &[u8]) -> Result<(), Errno> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", shm::sys::gettid()));
    let (new, path) = (c_path(Path::new(&new))?, c_path(path)?);
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
    let fd = open(&new, flags, 0o600)?;
    let mut left = bytes;
    let written = loop {
        if left.is_empty() {
            break rename(&new, &path);
        }
        match fd_call(
            libc::SYS_write,
            &fd,
            [left.as_ptr() as usize, left.len(), 0],
        ) {
            Ok(0) => break Err(Errno::ENOSPC),
            Ok(n) => left = left.get(n..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(error) => break Err(error),
        }
    };
    written.inspect_err(|_| {
        // The first error is told.
        let _ = unlink(&new);
    })
}

/// fallocate(2).
pub(crate) fn fallocate(fd: &OwnedFd, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
    if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
        may_grow_to(offset.saturating_add(len))?;
    }
    fd_call(
        libc::SYS_fallocate,
        fd,
        [mode as usize, offset as usize, len as usize],
    )
    .map(drop)
}

/// The same open file under a number of at least `least`, where tools that
/// close the low numbers do not meet it; the given one when there is no room.
pub(crate) fn move_up(fd: OwnedFd, least: RawFd) -> OwnedFd {
    match fd_call(
        libc::SYS_fcntl,
        &fd,
        [libc::F_DUPFD_CLOEXEC as usize, least as usize, 0],
    ) {
        // SAFETY: the kernel just gave us this fd; nobody else closes it.
        Ok(high) => unsafe { OwnedFd::from_raw_fd(high as RawFd) },
        Err(_) => fd,
    }
}

/// A copy of an fd with a number of at least `least`.
pub(crate) fn copy_up(fd: RawFd, least: RawFd) -> Result<OwnedFd, Errno> {
    let args = [
        fd as usize,
        libc::F_DUPFD_CLOEXEC as usize,
        least as usize,
        0,
        0,
        0,
    ];
    // SAFETY: plain numbers.
    let copy = unsafe { call(libc::SYS_fcntl, args) }?;
    // SAFETY: the kernel just gave us this fd; nobody else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// close(2).
pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns the number.
    let _ = unsafe { call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) };
}

/// Bytes an unprivileged user can still allocate in the file's file system.
pub(crate) fn free_bytes(fd: &OwnedFd) -> Result<u64, Errno> {
    // SAFETY: an all-zero statfs is a valid value.
    let mut raw: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one statfs.
    unsafe {
        call(
            libc::SYS_fstatfs,
            [fd.as_raw_fd() as usize, &raw mut raw as usize, 0, 0, 0, 0],
        )
    }?;
    // A tmpfs without a size limit reports no blocks at all.
    if raw.f_blocks == 0 {
        return Ok(u64::MAX);
    }
    Ok(raw.f_bavail.saturating_mul(raw.f_bsize as u64))
}

/// Calls `each` with every name in a directory but `.` and `..`. Does not
/// allocate, so the sweeper may use it after fork.
pub(crate) fn for_each_name(dir: &OwnedFd, mut each: impl FnMut(&CStr)) -> Result<(), Errno> {
    const HEADER: usize = 19; // d_ino, d_off, d_reclen, d_type (getdents64(2))
    #[repr(align(8))]
    struct Buffer([u8; 4096]);
    let mut buffer = Buffer([0; 4096]);
    loop {
        // SAFETY: the kernel writes at most the buffer's length into it.
        let got = unsafe {
            call(
                libc::SYS_getdents64,
                [
                    dir.as_raw_fd() as usize,
                    buffer.0.as_mut_ptr() as usize,
                    buffer.0.len(),
                    0,
                    0,
                    0,
                ],
            )
        }?;
        if got == 0 {
            return Ok(());
        }
        let mut rest = buffer.0.get(..got).unwrap_or_default();
        while let Some(record) = rest.get(16..18) {
            let len = usize::from(u16::from_ne_bytes([record[0], record[1]]));
            let Some(name) = rest.get(HEADER..len) else {
                break;
            };
            if let Ok(name) = CStr::from_bytes_until_nul(name)
                && !matches!(name.to_bytes(), b"." | b"..")
            {
                each(name);
            }
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

/// A number nobody can guess.
pub(crate) fn random() -> Result<u64, Errno> {
    let mut number = 0u64;
    // SAFETY: the kernel writes the 8 bytes of `number`.
    unsafe {
        call(
            libc::SYS_getrandom,
            [&raw mut number as usize, 8, 0, 0, 0, 0],
        )
    }?;
    Ok(number)
}

/// Effective user id.
pub(crate) fn euid() -> u32 {
    // SAFETY: geteuid(2) has no arguments.
    unsafe { call(libc::SYS_geteuid, [0; 6]) }.unwrap_or(0) as u32
}

/// The calling process.
pub(crate) fn pid() -> i32 {
    // SAFETY: getpid(2) has no arguments.
    unsafe { call(libc::SYS_getpid, [0; 6]) }.unwrap_or(0) as i32
}
