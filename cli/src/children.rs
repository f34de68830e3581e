//! Children whose end is waited for. Where whoever started us ignores SIGCHLD the
//! kernel forgets them, and nobody would learn how they ended. It knows no command.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::signal::{SigHandler, Signal, signal};

/// Starts a child that can be waited for. It ignores the ends of its own
/// children if we were told to.
///
/// # Errors
/// As [`Command::spawn`].
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: no handler; the default is what waiting takes.
    let before = unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    if matches!(before, SigHandler::SigIgn) {
        let ignore = || {
            // SAFETY: no handler, and one system call in the child.
            unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }?;
            Ok(())
        };
        // SAFETY: `ignore` makes one system call and allocates nothing.
        unsafe { command.pre_exec(ignore) };
    }
    command.spawn()
}
