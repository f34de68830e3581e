//! Standard streams that whoever started us has closed: without this the first
//! file that is opened would take the place of one, and be written to as stderr,
//! or read by a guest as stdin. It knows no command.

use std::io;

/// Opens /dev/null for each that is closed. What is executed has them closed again.
///
/// # Errors
/// Why /dev/null cannot be opened.
pub fn fill() -> io::Result<()> {
    for fd in libc::STDIN_FILENO..=libc::STDERR_FILENO {
        // SAFETY: only asks.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1 {
            continue;
        }
        // SAFETY: a terminated string. The lowest free number is this one.
        if unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
