//! The process that is traced by `--pid`: when it has ended, nothing more will
//! come of it. It knows no program.

use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::problem::Problem;

/// A process that may end.
pub struct Process {
    pid: i32,
    fd: OwnedFd,
}

impl Process {
    /// The process of `--pid`. `None` without one, and for a thread, whose end
    /// nobody is told of.
    pub fn of(pid: Option<i32>) -> Result<Option<Process>, Problem> {
        let Some(pid) = pid else { return Ok(None) };
        // SAFETY: takes two numbers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        match Errno::result(fd) {
            Ok(fd) => {
                // SAFETY: the kernel's answer, a new fd that nobody else has.
                let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                Ok(Some(Process { pid, fd }))
            }
            Err(Errno::ESRCH) => {
                let advice = "check the process id (pidof NAME, ps)";
                Err(Problem::new(pid, "no such process", advice))
            }
            Err(_) => Ok(None),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ends(PollTimeout::ZERO)
    }

    /// Waits for its end.
    pub fn wait(&self) {
        while !self.ends(PollTimeout::NONE) {}
    }

    fn ends(&self, timeout: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).is_ok_and(|count| count > 0)
    }

    /// Says on stderr why nothing more comes.
    pub fn tell(&self) {
        // Nobody listens if stderr is gone.
        let _ = writeln!(io::stderr(), "bpftime: process {} has ended", self.pid);
    }
}
