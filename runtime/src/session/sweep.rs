//! Removing sessions whose tool is gone: at once by the sweeper process, else
//! by whoever comes along; what is pinned stays (`keeper`). It knows the file
//! names of a session, not its content.

use std::ffi::{CStr, CString, OsString, c_int, c_void};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use shm::sys;
use uapi::Errno;

use super::claims::Claims;
use super::dirs::PINS_PREFIX;
use super::keeper::Kept;
use super::objects::Objects;
use super::roster::{AgentSlot, Roster};
use super::{DATA, Dirs, NEW_PREFIX, OBJECTS, ProcessId, Session, SessionError, file};
use crate::command::timer::with_signals_blocked;
use crate::guest;

/// Removes the sessions whose tool has ended, and the sessions directory when
/// it is empty then. Sessions of living tools are left alone.
pub fn sweep(dirs: &Dirs) {
    for name in names(&dirs.sessions).unwrap_or_default() {
        sweep_one(&dirs.sessions.join(name));
    }
    if let Ok(path) = file::c_path(&dirs.sessions) {
        remove_empty(&path);
    }
}

/// Removes the sessions directory unless it holds a session, a pin or the mark of
/// a living guest. Does not allocate.
pub(super) fn remove_empty(sessions: &CStr) {
    if let Ok(dir) = open_dir(sessions) {
        // What is not seen now stays until the next time.
        let _ = file::for_each_name(&dir, |name| {
            let dead = guest::marked(name.to_bytes()).is_some_and(|pid| !sys::process_can_run(pid));
            let pins = name.to_bytes().starts_with(PINS_PREFIX.as_bytes());
            // A tree in which there is something stays.
            if dead || pins {
                let at = [dir.as_raw_fd() as usize, name.as_ptr() as usize];
                let flags = libc::AT_REMOVEDIR as usize;
                // SAFETY: the kernel reads `name` up to its zero.
                let _ = unsafe { file::call(libc::SYS_unlinkat, [at[0], at[1], flags, 0, 0, 0]) };
            }
        });
    }
    // Fails while something is left.
    let _ = file::rmdir(sessions);
}

/// Names of the sessions in a directory, finished or being made; none when
/// there is no such directory.
pub(super) fn names(sessions: &Path) -> Result<Vec<OsString>, Errno> {
    let mut found = Vec::new();
    let dir = match file::c_path(sessions).and_then(|path| open_dir(&path)) {
        Ok(dir) => dir,
        Err(Errno::ENOENT) => return Ok(found),
        Err(errno) => return Err(errno),
    };
    file::for_each_name(&dir, |name| {
        if session_pid(name.to_bytes()).is_some() {
            found.push(std::ffi::OsStr::from_bytes(name.to_bytes()).to_owned());
        }
    })?;
    Ok(found)
}

/// The pid in a session's name: `PID-N`, or `.new-PID-N` while it is made.
fn session_pid(name: &[u8]) -> Option<i32> {
    let name = name.strip_prefix(NEW_PREFIX.as_bytes()).unwrap_or(name);
    let name = std::str::from_utf8(name).ok()?;
    let (pid, number) = name.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok().filter(|&pid| pid > 0)
}

/// Whether a complete session may have this name.
pub(super) fn is_session_name(name: &[u8]) -> bool {
    !name.starts_with(NEW_PREFIX.as_bytes()) && session_pid(name).is_some()
}

fn open_dir(path: &CStr) -> Result<OwnedFd, Errno> {
    file::open(
        path,
        libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW,
        0,
    )
}

fn sweep_one(path: &Path) {
    let Ok(directory) = file::c_path(path) else {
        return;
    };
    let Ok(objects) = file::c_path(&path.join(OBJECTS)) else {
        return;
    };
    match file::open(&objects, libc::O_RDONLY | libc::O_NOFOLLOW, 0) {
        Ok(fd) => {
            if file::flock(&fd, libc::LOCK_EX | libc::LOCK_NB).is_ok() && !being_made(path) {
                // What was pinned outlives the one that kept it, too.
                remove_unclaimed(&directory, &Claims::of(path));
            }
        }
        // Without `objects`: being made, or half removed by a killed sweeper.
        Err(Errno::ENOENT) if !being_made(path) => remove(&directory),
        Err(_) => {}
    }
}

/// Whether a living process with the pid in the name may be at work on it. A
/// name without the prefix is complete, so its lock alone decides.
fn being_made(path: &Path) -> bool {
    let name = path.file_name().map_or(&b""[..], OsStrExt::as_bytes);
    name.starts_with(NEW_PREFIX.as_bytes())
        && session_pid(name).is_some_and(|pid| ProcessId::of(pid).is_ok())
}

/// Removes a session unless something in it is claimed, or is just being.
pub(super) fn remove_unclaimed(directory: &CStr, claims: &Claims) -> bool {
    let lock = match claims.lock() {
        // Without `data` there is nothing to claim.
        Err(Errno::ENOENT) => None,
        Err(_) => return false,
        Ok(lock) => Some(lock),
    };
    let unclaimed = !Claims::any(directory);
    if unclaimed {
        remove(directory);
    }
    drop(lock);
    unclaimed
}

/// Removes a session's directory and the files in it. Does not allocate.
pub(super) fn remove(directory: &CStr) {
    let Ok(dir) = open_dir(directory) else { return };
    // Unlinking while reading may skip names; the second round finds them.
    for _ in 0..2 {
        // SAFETY: rewinds our own directory fd.
        let _ = unsafe {
            file::call(
                libc::SYS_lseek,
                [
                    dir.as_raw_fd() as usize,
                    0,
                    libc::SEEK_SET as usize,
                    0,
                    0,
                    0,
                ],
            )
        };
        // What cannot be unlinked stays, and rmdir says so to nobody.
        let _ = file::for_each_name(&dir, |name| {
            // SAFETY: the kernel reads `name` up to its zero.
            let _ = unsafe {
                file::call(
                    libc::SYS_unlinkat,
                    [dir.as_raw_fd() as usize, name.as_ptr() as usize, 0, 0, 0, 0],
                )
            };
        });
    }
    let _ = file::rmdir(directory);
}

/// What the sweeper needs after fork, where it may not allocate.
struct Orders<'a> {
    objects: CString,
    data: CString,
    /// What is in `objects`.
    table: &'a Objects,
    directory: CString,
    sessions: CString,
    /// The command line in the (copied) stack, to be overwritten.
    arguments: Option<(usize, usize)>,
    /// The tool's place in the roster.
    slot: &'a AgentSlot,
    roster: &'a Roster,
}

/// Starts the sweeper of a session: a process of its own that removes the
/// session when the tool ends, however it ends. Call it while no other thread
/// of the tool depends on it being quick: the address space is copied once.
///
/// # Errors
/// When the process table is full.
pub fn spawn_sweeper(session: &Session) -> Result<(), SessionError> {
    let path =
        |path: &Path| file::c_path(path).map_err(|errno| SessionError::file("name", path, errno));
    let orders = Orders {
        objects: path(&session.path().join(OBJECTS))?,
        data: path(&session.path().join(DATA))?,
        table: session.objects(),
        directory: path(session.path())?,
        sessions: path(&session.dirs().sessions)?,
        arguments: argument_range(),
        slot: session.slot(),
        roster: session.roster(),
    };
    let mut stack = Vec::<u8>::with_capacity(STACK_BYTES);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    let given = (&raw const orders).cast_mut().cast();
    // As by vfork(2), so that the memory is copied once, for the second. No exit
    // signal: neither SIGCHLD nor wait(2) of the tool shows the first.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    // The tool's handlers must not run in either.
    with_signals_blocked(|| {
        // SAFETY: `first` makes raw system calls only, on a stack of its own, and
        // this thread sleeps until it has ended: what it is given lives.
        let child = unsafe { libc::clone(first, top.cast(), flags, given) };
        if child == -1 {
            let errno = std::io::Error::last_os_error().raw_os_error();
            return Err(SessionError::Sweeper(Errno(errno.unwrap_or(libc::EAGAIN))));
        }
        let words = [child as usize, 0, libc::__WALL as usize, 0, 0, 0];
        // SAFETY: waits for our own child and wants no status.
        while unsafe { file::call(libc::SYS_wait4, words) } == Err(Errno::EINTR) {}
        Ok(())
    })
}

/// Bytes of the stack on which the sweeper and who makes it run.
const STACK_BYTES: usize = 256 << 10;

/// Makes the sweeper, so that that is nobody's child.
extern "C" fn first(orders: *mut c_void) -> c_int {
    // SAFETY: what `spawn_sweeper` gives, which lives as long as this process and,
    // as a copy, in the one that it makes.
    let orders = unsafe { &*orders.cast::<Orders<'_>>() };
    // fork(2) without libc's handlers and without a signal at the child's end.
    // SAFETY: no flags, no new stack: a plain copy of this process. It runs only
    // `watch`, which makes raw system calls on memory of its own and never
    // returns; other threads' locks are held for ever in its copy of the memory.
    match unsafe { file::call(libc::SYS_clone, [0; 6]) } {
        Ok(0) => watch(orders),
        _ => 0,
    }
}

fn exit() -> ! {
    loop {
        // SAFETY: ends this process; runs nothing of it.
        let _ = unsafe { file::call(libc::SYS_exit_group, [0; 6]) };
    }
}

/// The sweeper's life.
fn watch(orders: &Orders<'_>) -> ! {
    leave_the_tool(orders);
    if let Ok(fd) = file::open(&orders.objects, libc::O_RDONLY | libc::O_NOFOLLOW, 0) {
        while file::flock(&fd, libc::LOCK_EX) == Err(Errno::EINTR) {}
        orders.slot.give_back();
        // A tool that closed its session has removed it already.
        if file::fstat(&fd).is_ok_and(|stat| stat.nlink > 0) {
            end(orders);
            remove_empty(&orders.sessions);
            orders.roster.bump();
        }
    }
    exit()
}

/// Removes the session, once nothing in it is claimed.
fn end(orders: &Orders<'_>) {
    let kept = Kept {
        directory: &orders.directory,
        data: &orders.data,
        objects: orders.table,
        roster: orders.roster,
    };
    loop {
        kept.until_unclaimed();
        // Nobody claims meanwhile.
        let lock = file::open(&orders.data, libc::O_RDONLY | libc::O_NOFOLLOW, 0);
        if let Ok(lock) = &lock {
            while file::flock(lock, libc::LOCK_EX) == Err(Errno::EINTR) {}
        }
        if !Claims::any(&orders.directory) {
            remove(&orders.directory);
            return;
        }
    }
}

/// Lets go of everything the fork copied: terminal, signals, directory, fds,
/// name. Errors change nothing: the sweeper does its work all the same.
fn leave_the_tool(orders: &Orders<'_>) {
    const NAME: &CStr = c"bpftime-sweeper";
    let all_signals = u64::MAX;
    // SAFETY: the kernel reads the 8-byte mask; blocked signals neither run
    // the tool's handlers nor end this process.
    let _ = unsafe {
        file::call(
            libc::SYS_rt_sigprocmask,
            [
                libc::SIG_SETMASK as usize,
                &raw const all_signals as usize,
                0,
                size_of::<u64>(),
                0,
                0,
            ],
        )
    };
    // SAFETY: setsid(2) has no arguments; prctl and chdir read constants.
    let _ = unsafe {
        (
            file::call(libc::SYS_setsid, [0; 6]),
            file::call(
                libc::SYS_prctl,
                [
                    libc::PR_SET_NAME as usize,
                    NAME.as_ptr() as usize,
                    0,
                    0,
                    0,
                    0,
                ],
            ),
            file::call(libc::SYS_chdir, [c"/".as_ptr() as usize, 0, 0, 0, 0, 0]),
        )
    };
    close_all();
    if let Some(range) = orders.arguments {
        overwrite(range, NAME);
    }
}

/// Shows `name` in the place of the process's arguments, which a copy of another
/// process has from that one.
pub fn overwrite_arguments(name: &CStr) {
    if let Some(range) = argument_range() {
        overwrite(range, name);
    }
}

fn overwrite((start, end): (usize, usize), name: &CStr) {
    let mut name = name.to_bytes().iter();
    for address in start..end {
        // SAFETY: the kernel named this range of our stack as the
        // arguments; nothing in this process reads them any more.
        unsafe { *(address as *mut u8) = name.next().copied().unwrap_or(0) };
    }
}

/// Closes every fd: one of the tool's would keep its pipes or its lock open.
fn close_all() {
    // SAFETY: no value of this process that owns an fd is used hereafter.
    if unsafe { file::call(libc::SYS_close_range, [0, u32::MAX as usize, 0, 0, 0, 0]) }.is_ok() {
        return;
    }
    // Before Linux 5.9. Tools with more fds than this are not known.
    const MANY: RawFd = 65_536;
    for fd in 0..MANY {
        // SAFETY: as above.
        let _ = unsafe { file::call(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Fields 48 and 49 of /proc/self/stat: where the arguments lie.
fn argument_range() -> Option<(usize, usize)> {
    let stat = file::read_small(c"/proc/self/stat", 4096).ok()?;
    let name_end = stat.iter().rposition(|&b| b == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let mut fields = fields.split_ascii_whitespace().skip(48 - 3);
    let start = fields.next()?.parse().ok()?;
    let end = fields.next()?.parse().ok()?;
    (0 < start && start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_names() {
        assert_eq!(session_pid(b"12-0"), Some(12));
        assert_eq!(session_pid(b".new-7-3"), Some(7));
        for other in [&b"12"[..], b"-1-2", b"a-1", b"1-b", b"", b"0-1", b"..-1"] {
            assert_eq!(session_pid(other), None, "{other:?}");
        }
    }

    #[test]
    fn knows_where_the_arguments_lie() {
        let (start, end) = argument_range().unwrap();
        // SAFETY: the range is this test's own command line.
        let line = unsafe { std::slice::from_raw_parts(start as *const u8, end - start) };
        assert_eq!(line, std::fs::read("/proc/self/cmdline").unwrap());
    }
}
