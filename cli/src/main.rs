//! The `bpftime` command. Everything is in the library beside it.

// The Rust runtime's own `main` ignores SIGPIPE, and what `load` and `start`
// exec would inherit that. Entering from libc leaves every signal as it came.
#![no_main]

use std::ffi::{c_char, c_int};

/// Exit status after a panic, as Rust's own `main` gives it.
const PANICKED: c_int = 101;

// SAFETY: no other object linked into this binary defines `main`; libc calls it once.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    std::panic::catch_unwind(bpftime_cli::run).map_or(PANICKED, c_int::from)
}
