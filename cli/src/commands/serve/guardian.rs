//! A process beside the service that ends what the service leaves behind when
//! it is killed: the groups of its programs, and its directory. It knows
//! nothing of programs but their process groups.
//!
//! Programs themselves end with the service by `PR_SET_PDEATHSIG`; applications
//! that they started do not, so there is this.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::unistd::{ForkResult, Pid, close, dup2_raw, fork, pipe, setsid};

/// The fd on which it listens.
const LISTENS: i32 = 0;

/// The service's side.
pub struct Guardian {
    tells: File,
}

impl Guardian {
    /// Starts it. To be called while this process has one thread.
    pub fn start(directory: &Path) -> io::Result<Guardian> {
        let (listens, tells) = pipe()?;
        // Programs of the service must not keep it from ending.
        nix::fcntl::fcntl(
            &tells,
            nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
        )?;
        // SAFETY: this process has one thread, as the caller says, so the child may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { .. } => Ok(Guardian {
                tells: File::from(tells),
            }),
            ForkResult::Child => {
                // SAFETY: fd 0 is not used by anybody else in this process from here on.
                let listening = unsafe { dup2_raw(&listens, LISTENS) };
                if listening.is_ok() {
                    close_others();
                    watch(directory);
                }
                std::process::exit(0)
            }
        }
    }

    /// From now on this group ends with the service.
    pub fn add(&mut self, group: i32) {
        self.tell(group);
    }

    /// This group has ended.
    pub fn remove(&mut self, group: i32) {
        self.tell(-group);
    }

    fn tell(&mut self, word: i32) {
        // Without it the groups' leaders still end with the service.
        let _ = self.tells.write_all(&word.to_ne_bytes());
    }
}

fn close_others() {
    // SAFETY: this process uses no fd but 0.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, LISTENS + 1, u32::MAX, 0) };
    if closed != 0 {
        // Before Linux 5.9.
        for fd in LISTENS + 1..1024 {
            let _ = close(fd);
        }
    }
}

fn watch(directory: &Path) {
    // Fails for a leader of a group only; a fresh child is none.
    let _ = setsid();
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: ignoring a signal installs no code.
        let _ = unsafe { signal(number, SigHandler::SigIgn) };
    }
    let mut listens = io::stdin().lock();
    debug_assert_eq!(listens.as_raw_fd(), LISTENS);
    let mut groups = BTreeSet::new();
    let mut word = [0; 4];
    while listens.read_exact(&mut word).is_ok() {
        let group = i32::from_ne_bytes(word);
        match group {
            1.. => groups.insert(group),
            _ => groups.remove(&group.wrapping_neg()),
        };
    }
    for group in groups {
        // Nobody is left to tell.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = fs::remove_dir_all(directory);
}
