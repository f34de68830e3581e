//! Which number a new session gets: one that no other of the user has, so that
//! ids name one object among all sessions. It knows no object.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use super::super::objects::{NUMBERS, number_in};
use super::super::{OBJECTS, file, sweep};

/// Keeps other sessions from choosing meanwhile; best effort, as a tool that
/// is stopped here must not keep others from starting.
pub(super) struct Choosing(#[expect(dead_code, reason = "holds the lock")] Option<OwnedFd>);

impl Choosing {
    pub(super) fn begin(sessions: &Path) -> Choosing {
        let path = file::c_path(sessions);
        let dir = path.and_then(|path| file::open(&path, libc::O_RDONLY | libc::O_DIRECTORY, 0));
        Choosing(dir.ok().filter(|dir| file::flock_soon(dir, WAIT).is_ok()))
    }
}

const WAIT: Duration = Duration::from_millis(200);

/// The smallest number that no session has; some number when all are taken.
pub(super) fn free(sessions: &Path) -> u32 {
    let mut taken = [false; NUMBERS as usize];
    for name in sweep::names(sessions).unwrap_or_default() {
        let path = file::c_path(&sessions.join(name).join(OBJECTS));
        if let Some(number) = path.ok().and_then(|path| number_in(&path))
            && let Some(entry) = taken.get_mut(number as usize)
        {
            *entry = true;
        }
    }
    let free = taken.iter().position(|taken| !taken);
    free.map_or(file::pid() as u32 % NUMBERS, |free| free as u32)
}
