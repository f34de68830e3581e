//! The calls that wait for fds: before each, the fds of rings say truly
//! whether there is data. libc's own functions then wait, as some of them are
//! cancellation points.

use std::ffi::{c_int, c_void};

use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};
use uapi::Errno;

use super::next::next_function;
use crate::raw::fail;
use crate::readiness;

/// Defines an exported function that settles, then calls libc's.
macro_rules! settled {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $t:ty),*)) => {
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $t),*) -> c_int {
            next_function! {
                /// libc's own.
                unsafe fn $name($($arg: $t),*) -> c_int, else fail(Errno::ENOSYS) as c_int
            }
            // A panic here must not keep the tool from waiting.
            let _ = std::panic::catch_unwind(readiness::settle);
            // SAFETY: the caller's contract for this function is passed on.
            unsafe { own::$name($($arg),*) }
        }
    };
}

settled! {
    /// epoll_wait(2).
    fn epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int)
}
settled! {
    /// epoll_pwait(2).
    fn epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: c_int, mask: *const sigset_t)
}
settled! {
    /// epoll_pwait2(2).
    fn epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t)
}
settled! {
    /// poll(2).
    fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int)
}
settled! {
    /// ppoll(2).
    fn ppoll(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t)
}
settled! {
    /// poll(2) of programs built with `_FORTIFY_SOURCE`.
    fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, size: usize)
}
settled! {
    /// ppoll(2) of programs built with `_FORTIFY_SOURCE`.
    fn __ppoll_chk(fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t, size: usize)
}
settled! {
    /// select(2).
    fn select(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *mut timeval)
}
settled! {
    /// pselect(2).
    fn pselect(count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec, mask: *const c_void)
}
