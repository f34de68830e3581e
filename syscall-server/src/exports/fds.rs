//! `close`, `dup` and their kin: our table follows what happens to fds.

use std::ffi::{c_int, c_uint};

use super::guarded;
use crate::fds::FDS;
use crate::{forks, raw};
use uapi::Errno;

/// Whether the table has to follow a change of `fd`.
fn concerns(fd: c_int) -> bool {
    // In a child of vfork(2) the table is the parent's.
    FDS.may_be_ours(fd) && forks::memory_is_ours()
}

/// close(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn close(fd: c_int) -> c_int {
    if concerns(fd) {
        let forgotten = guarded(|| {
            if FDS.is_private(fd) {
                return Err(Errno::EBADF);
            }
            // Before the number is free for another thread.
            FDS.remove(fd);
            Ok(0)
        });
        if forgotten != 0 {
            return -1;
        }
    }
    raw::pass(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) as c_int
}

/// Enters `new`, a duplicate of `old` that the kernel made.
fn duplicated(old: c_int, new: c_int) -> c_int {
    if new >= 0 && (concerns(old) || concerns(new)) {
        return guarded(|| FDS.duplicated(old, new).map(|()| i64::from(new))) as c_int;
    }
    new
}

/// Refuses to replace an fd that is not the tool's.
fn may_replace(new: c_int) -> Result<(), Errno> {
    if concerns(new) && FDS.is_private(new) {
        return Err(Errno::EBUSY);
    }
    Ok(())
}

/// dup(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn dup(old: c_int) -> c_int {
    let new = raw::pass(libc::SYS_dup, [old as usize, 0, 0, 0, 0, 0]) as c_int;
    duplicated(old, new)
}

/// dup2(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    if let Err(errno) = may_replace(new) {
        return raw::fail(errno) as c_int;
    }
    let made = raw::pass(libc::SYS_dup2, [old as usize, new as usize, 0, 0, 0, 0]) as c_int;
    if old == new {
        made
    } else {
        duplicated(old, made)
    }
}

/// dup3(2).
#[unsafe(no_mangle)]
pub(super) extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    if let Err(errno) = may_replace(new) {
        return raw::fail(errno) as c_int;
    }
    let arguments = [old as usize, new as usize, flags as usize, 0, 0, 0];
    let made = raw::pass(libc::SYS_dup3, arguments) as c_int;
    duplicated(old, made)
}

/// fcntl(2): `F_DUPFD` and `F_DUPFD_CLOEXEC` duplicate.
#[unsafe(no_mangle)]
pub(super) extern "C" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    let arguments = [fd as usize, command as usize, argument, 0, 0, 0];
    let answer = raw::pass(libc::SYS_fcntl, arguments) as c_int;
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(fd, answer),
        _ => answer,
    }
}

/// fcntl64, which new programs call.
#[unsafe(no_mangle)]
extern "C" fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    fcntl(fd, command, argument)
}

/// `CLOSE_RANGE_CLOEXEC`: nothing is closed now.
const CLOSE_RANGE_CLOEXEC: c_int = 4;

/// close_range(2): our own private fds stay.
#[unsafe(no_mangle)]
pub(super) extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let close = |first: u32, last: u32| {
        raw::pass(
            libc::SYS_close_range,
            [first as usize, last as usize, flags as usize, 0, 0, 0],
        ) as c_int
    };
    if flags & CLOSE_RANGE_CLOEXEC != 0 || first > last || !forks::memory_is_ours() {
        return close(first, last);
    }
    let end = i32::try_from(last).unwrap_or(i32::MAX);
    let mut from = first;
    for fd in FDS.in_range(first as i32, end) {
        if FDS.is_private(fd) {
            let fd = fd as u32;
            if fd > from && close(from, fd - 1) != 0 {
                return -1;
            }
            from = fd + 1;
        } else {
            FDS.remove(fd);
        }
    }
    if from > last { 0 } else { close(from, last) }
}

/// closefrom(3).
#[unsafe(no_mangle)]
extern "C" fn closefrom(first: c_int) {
    close_range(first.max(0) as u32, u32::MAX, 0);
}
