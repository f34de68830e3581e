//! System calls straight to the kernel, past the functions that this library
//! interposes. It knows no object.

use std::ffi::{c_int, c_long};

use uapi::Errno;

/// A system call straight to the kernel: its result, or a negative errno.
pub fn call(number: c_long, args: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the kernel checks every argument; a caller that passes an
    // address answers for what is there, as with syscall(2).
    unsafe { shm::sys::syscall6(number as usize, a, b, c, d, e, f) }
}

/// As [`call`], with the errno apart.
pub fn checked(number: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    match call(number, args) {
        error @ -4095..=-1 => Err(Errno(-(error as i32))),
        value => Ok(value as usize),
    }
}

/// A system call for someone else: -1 and errno on failure, as libc answers.
pub fn pass(number: c_long, args: [usize; 6]) -> c_long {
    match checked(number, args) {
        Ok(value) => value as c_long,
        Err(errno) => fail(errno),
    }
}

/// Sets errno and is -1.
pub fn fail(errno: Errno) -> c_long {
    // SAFETY: the address of this thread's errno is always writable.
    unsafe { *libc::__errno_location() = errno.0 };
    -1
}

/// errno of this thread.
pub fn errno() -> Errno {
    // SAFETY: as in `fail`.
    Errno(unsafe { *libc::__errno_location() })
}

/// Closes an fd; the number is free afterwards whatever the kernel says.
pub fn close(fd: c_int) {
    call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
}
