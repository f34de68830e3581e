//! What a user's files let other users do: nothing. As root these tests act
//! as another user, too; without, they look at modes and links alone.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use bpftime_runtime::maps::MapSpec;
use bpftime_runtime::session::{Dirs, Roster, Session, SessionError, SessionView, list};
use shm::{Access, Segment};
use uapi::map::{BPF_F_MMAPABLE, BPF_MAP_TYPE_ARRAY};

/// An ordinary user.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    // SAFETY: changes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    assert!(root || std::env::var_os("CI").is_none(), "CI runs as root");
    root
}

/// Directories in a new place that everyone can write, as /tmp and /dev/shm.
fn place() -> (tempfile::TempDir, Dirs) {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let dirs = Dirs {
        state: root.path().join("state"),
        sessions: root.path().join("sessions"),
    };
    (root, dirs)
}

/// Runs `body` in a child that is an ordinary user: what it returns.
fn as_nobody(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child makes a few calls and ends.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: plain numbers; ends the child without the parent's
        // destructors.
        unsafe {
            let gone = libc::setgroups(0, std::ptr::null()) == 0
                && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
                && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0;
            libc::_exit(if gone { body() } else { 100 });
        }
    }
    let mut status = 0;
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "status {status:#x}");
    libc::WEXITSTATUS(status)
}

fn all_below(directory: &Path, found: &mut Vec<PathBuf>) {
    found.push(directory.to_owned());
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all_below(&path, found),
            false => found.push(path),
        }
    }
}

fn is_foreign(result: Result<Session, SessionError>) -> bool {
    matches!(result, Err(SessionError::Foreign { .. }))
}

#[test]
fn files_are_for_their_owner_alone() {
    let (_root, dirs) = place();
    // SAFETY: a plain number; with this mask modes are what was asked for.
    let mask = unsafe { libc::umask(0) };
    let session = Session::create(&dirs).unwrap();
    let spec = MapSpec {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        map_flags: BPF_F_MMAPABLE,
        ..MapSpec::default()
    };
    session.create_map(spec).unwrap();
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    let mut paths = Vec::new();
    for directory in [&dirs.state, &dirs.sessions] {
        all_below(directory, &mut paths);
    }
    // The directories, the roster, the session, its objects, data and array.
    assert_eq!(paths.len(), 7, "{paths:?}");
    for path in &paths {
        let meta = fs::symlink_metadata(path).unwrap();
        let most = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.permissions().mode() & 0o7777 & !most, 0, "{path:?}");
    }
    if !is_root() {
        return;
    }
    let opened = as_nobody(|| {
        let view = list(&dirs).len()
            + paths
                .iter()
                .filter(|path| fs::File::open(path).is_ok())
                .count();
        let roster = Roster::open(&dirs).is_ok();
        let session = SessionView::open(session.path()).is_ok();
        view as i32 + i32::from(roster) + i32::from(session)
    });
    assert_eq!(opened, 0);
}

#[test]
fn directories_of_others_are_refused() {
    if !is_root() {
        return;
    }
    for squatted in ["state", "sessions"] {
        let (root, dirs) = place();
        let path = root.path().join(squatted);
        fs::DirBuilder::new().mode(0o777).create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        // An ordinary user in root's, and root in an ordinary user's.
        assert_eq!(
            as_nobody(|| i32::from(is_foreign(Session::create(&dirs)))),
            1
        );
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        assert!(is_foreign(Session::create(&dirs)), "{squatted}");
        let left = fs::read_dir(&path).unwrap().count();
        assert_eq!(left, 0, "{squatted}: wrote to it all the same");
    }
}

#[test]
fn links_are_not_followed() {
    for squatted in ["state", "sessions"] {
        let (root, dirs) = place();
        let elsewhere = root.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, root.path().join(squatted)).unwrap();
        assert!(is_foreign(Session::create(&dirs)), "{squatted}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
    // Nor those that take the place of a file.
    let (root, dirs) = place();
    let session = Session::create(&dirs).unwrap();
    for name in ["objects", "data"] {
        let (file, kept) = (session.path().join(name), root.path().join(name));
        fs::rename(&file, &kept).unwrap();
        symlink(&kept, &file).unwrap();
        assert!(SessionView::open(session.path()).is_err(), "{name}");
        fs::remove_file(&file).unwrap();
        fs::rename(&kept, &file).unwrap();
    }
    assert!(SessionView::open(session.path()).is_ok());
    let roster = fs::read_dir(&dirs.state).unwrap().next().unwrap().unwrap();
    let kept = root.path().join("roster");
    fs::rename(roster.path(), &kept).unwrap();
    symlink(&kept, roster.path()).unwrap();
    assert!(Roster::open(&dirs).is_err());
}

#[test]
fn what_is_mapped_for_reading_cannot_become_writable() {
    let (_root, dirs) = place();
    let session = Session::create(&dirs).unwrap();
    let objects = session.path().join("objects");
    let name = std::ffi::CString::new(objects.as_os_str().as_encoded_bytes()).unwrap();
    let segment = Segment::open(&name, Access::ReadOnly).unwrap();
    let at = segment.region(0, 4096).unwrap().as_ptr();
    // SAFETY: a page of our own mapping; nothing is written to it.
    let done = unsafe { libc::mprotect(at.cast(), 4096, libc::PROT_READ | libc::PROT_WRITE) };
    let errno = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((done, errno), (-1, Some(libc::EACCES)));
}
