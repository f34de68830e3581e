//! The C functions that tools call instead of libc's. Each is a shim: words
//! in, one safe call, a word out. What is not ours goes on to the kernel or to
//! libc, errno and all.

mod bpffs;
pub(crate) mod exec;
mod fds;
mod glob;
mod identity;
mod memory;
mod names;
mod next;
mod paths;
mod syscalls;
mod waiting;
mod writes;

use std::ffi::c_long;
use std::panic::{AssertUnwindSafe, catch_unwind};

use uapi::Errno;

use crate::raw;

/// Runs `f`; a panic in it is EIO for the tool, never an abort of it.
fn guarded(f: impl FnOnce() -> Result<i64, Errno>) -> c_long {
    // State behind locks stays consistent: see `runtime::command::object::locked`.
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => value,
        Ok(Err(errno)) => raw::fail(errno),
        Err(_) => raw::fail(Errno::EIO),
    }
}
