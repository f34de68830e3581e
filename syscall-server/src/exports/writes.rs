//! The calls that write, for files of tracefs: there each line does something,
//! and its error is that of the call. To other files libc's functions write.

use std::ffi::{c_int, c_void};

use libc::{FILE, iovec, size_t, ssize_t};
use uapi::Errno;

use super::guarded;
use super::next::next_function;
use crate::fds::FDS;
use crate::raw::fail;
use crate::user;

/// Most parts of a write (`UIO_MAXIOV`).
const MOST_PARTS: c_int = 1024;

/// write(2).
///
/// # Safety
/// As write(2).
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    next_function! {
        /// libc's own, which is a cancellation point.
        unsafe fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t,
        else fail(Errno::ENOSYS) as ssize_t
    }
    match FDS.writing(fd) {
        // SAFETY: the caller's contract for this function is passed on.
        None => unsafe { own::write(fd, bytes, len) },
        Some(writing) => guarded(|| {
            writing.write(&user::read_vec(bytes as u64, len)?)?;
            Ok(len as i64)
        }) as ssize_t,
    }
}

/// writev(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    next_function! {
        /// libc's own, which is a cancellation point.
        unsafe fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t,
        else fail(Errno::ENOSYS) as ssize_t
    }
    let Some(writing) = FDS.writing(fd) else {
        // SAFETY: the caller's contract for this function is passed on.
        return unsafe { own::writev(fd, parts, count) };
    };
    guarded(|| {
        if !(0..=MOST_PARTS).contains(&count) {
            return Err(Errno::EINVAL);
        }
        let words = user::read_u64s(parts as u64, count as usize * 2)?;
        let mut done = 0;
        // As for any file that writes whole buffers only, each is a call.
        for part in words.chunks_exact(2) {
            let written =
                user::read_vec(part[0], part[1] as usize).and_then(|bytes| writing.write(&bytes));
            match written {
                Ok(()) => done += part[1] as i64,
                Err(errno) if done == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(done)
    }) as ssize_t
}

/// fflush(3): what libc writes without write(2) above.
#[unsafe(no_mangle)]
unsafe extern "C" fn fflush(stream: *mut FILE) -> c_int {
    next_function! {
        /// libc's own.
        unsafe fn fflush(stream: *mut FILE) -> c_int, else libc::EOF
    }
    // SAFETY: the caller's contract for this function is passed on.
    let answer = unsafe { own::fflush(stream) };
    // SAFETY: as above.
    if answer != 0 || stream.is_null() || unsafe { settle(stream) } {
        return answer;
    }
    // SAFETY: as above; libc's streams begin with their flags.
    unsafe { *stream.cast::<c_int>() |= ERROR_SEEN };
    libc::EOF
}

/// `_IO_ERR_SEEN`, which ferror(3) looks at.
const ERROR_SEEN: c_int = 0x20;

/// Does what a stream has written to a file of tracefs; false with errno when
/// it was wrong.
///
/// # Safety
/// The stream is open.
unsafe fn settle(stream: *mut FILE) -> bool {
    // SAFETY: the caller's.
    let fd = unsafe { libc::fileno(stream) };
    let Some(writing) = FDS.writing(fd) else {
        return true;
    };
    guarded(|| writing.settle().map(|()| 0)) == 0
}

/// fclose(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn fclose(stream: *mut FILE) -> c_int {
    next_function! {
        /// libc's own.
        unsafe fn fclose(stream: *mut FILE) -> c_int, else libc::EOF
    }
    // SAFETY: the caller's stream is open.
    let fd = unsafe { libc::fileno(stream) };
    if FDS.writing(fd).is_none() {
        // SAFETY: the caller's contract for this function is passed on.
        return unsafe { own::fclose(stream) };
    }
    // SAFETY: as above.
    let is_right = unsafe { fflush(stream) } == 0;
    let wrong = crate::raw::errno();
    FDS.remove(fd);
    // SAFETY: as above.
    let answer = unsafe { own::fclose(stream) };
    match is_right {
        true => answer,
        false => fail(wrong) as c_int,
    }
}
