//! Where a user's files lie: the state directory (libraries, roster) and the
//! sessions directory. It knows nothing of what is in them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use uapi::Errno;

use super::{SessionError, file};

/// Moves the state directory.
pub const STATE_VARIABLE: &str = "BPFTIME_STATE_DIR";
/// Moves the sessions directory.
pub const SESSION_VARIABLE: &str = "BPFTIME_SESSION_DIR";
/// Name prefix of the directories in the state directory that hold libraries.
pub const LIBRARY_PREFIX: &str = "lib-";
/// Name prefix of the trees of pins in the sessions directory.
pub const PINS_PREFIX: &str = "bpffs";

/// The two directories of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Libraries and roster; survives sessions.
    pub state: PathBuf,
    /// One directory per session; exists while there is one.
    pub sessions: PathBuf,
}

impl Dirs {
    /// The directories as a preloaded or injected library finds them: a
    /// library unpacked by the command line lies in `S/lib-HASH/`, so its own
    /// path comes first; then the environment, then the user's home. All
    /// paths are absolute.
    pub fn for_library(own_path: Option<&Path>) -> Dirs {
        let from_path = own_path.and_then(|path| {
            let directory = path.parent()?;
            let name = directory.file_name()?.as_bytes();
            (path.is_absolute() && name.starts_with(LIBRARY_PREFIX.as_bytes()))
                .then(|| directory.parent().map(Path::to_owned))?
        });
        Dirs::from_parts(from_path)
    }

    /// The directories as the command line finds them.
    pub fn for_cli() -> Dirs {
        Dirs::from_parts(None)
    }

    fn from_parts(state: Option<PathBuf>) -> Dirs {
        let uid = file::euid();
        Dirs {
            state: state
                .or_else(|| absolute_variable(STATE_VARIABLE))
                .unwrap_or_else(|| default_state(uid)),
            sessions: absolute_variable(SESSION_VARIABLE)
                .unwrap_or_else(|| PathBuf::from(format!("/dev/shm/bpftime-{uid}"))),
        }
    }

    /// Makes the state directory, or checks the one that is there.
    ///
    /// # Errors
    /// When it cannot be made, is not a directory, or belongs to someone else.
    pub fn ensure_state(&self) -> Result<(), SessionError> {
        ensure(&self.state, STATE_VARIABLE)
    }

    /// Makes the sessions directory, or checks the one that is there.
    ///
    /// # Errors
    /// As [`Dirs::ensure_state`].
    pub fn ensure_sessions(&self) -> Result<(), SessionError> {
        ensure(&self.sessions, SESSION_VARIABLE)
    }

    /// Whether the sessions directory is there and ours; false is the quick
    /// answer of a target that nobody traces.
    pub fn have_sessions(&self) -> bool {
        file::c_path(&self.sessions)
            .and_then(|path| file::lstat(&path))
            .is_ok_and(|stat| is_ours(&stat))
    }
}

fn absolute_variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|v| !v.is_empty())?;
    std::path::absolute(value).ok()
}

/// `~/.cache/bpftime` when it is ours or can be made, else `/tmp/bpftime-UID`.
fn default_state(uid: u32) -> PathBuf {
    if let Some(home) = passwd_home(uid) {
        let state = home.join(".cache/bpftime");
        if ensure(&state, STATE_VARIABLE).is_ok() {
            return state;
        }
    }
    PathBuf::from(format!("/tmp/bpftime-{uid}"))
}

/// The home directory in /etc/passwd. Not `$HOME`, which sudo and services
/// change, and not getpwuid(3), which loads libraries into the process.
fn passwd_home(uid: u32) -> Option<PathBuf> {
    let passwd = file::read_small(c"/etc/passwd", 16 << 20).ok()?;
    home_in(&passwd, uid)
}

fn home_in(passwd: &[u8], uid: u32) -> Option<PathBuf> {
    let uid = uid.to_string();
    passwd.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let (own_uid, home) = (fields.nth(2)?, fields.nth(2)?);
        (own_uid == uid.as_bytes() && home.starts_with(b"/") && home != b"/")
            .then(|| PathBuf::from(OsString::from_vec(home.to_vec())))
    })
}

fn is_ours(stat: &file::Stat) -> bool {
    stat.mode & libc::S_IFMT == libc::S_IFDIR && stat.uid == file::euid()
}

/// Makes `path` and its missing parents 0700, or checks that it is a
/// directory (not a symbolic link) of ours and closes it to others.
fn ensure(path: &Path, variable: &'static str) -> Result<(), SessionError> {
    let not_writable = |errno| SessionError::NotWritable {
        path: path.to_owned(),
        variable,
        errno,
    };
    let name = file::c_path(path).map_err(not_writable)?;
    match file::mkdir(&name, 0o700) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(Errno::ENOENT) => {
            make_parents(path).map_err(not_writable)?;
            match file::mkdir(&name, 0o700) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(not_writable(errno)),
            }
        }
        Err(errno) => return Err(not_writable(errno)),
    }
    let stat = file::lstat(&name).map_err(not_writable)?;
    if !is_ours(&stat) {
        return Err(SessionError::Foreign {
            path: path.to_owned(),
            variable,
            uid: file::euid(),
        });
    }
    // Also undoes a umask that took our own bits away.
    if stat.mode & 0o777 != 0o700 {
        file::chmod(&name, 0o700).map_err(not_writable)?;
    }
    file::access_write(&name).map_err(not_writable)
}

fn make_parents(path: &Path) -> Result<(), Errno> {
    let Some(parent) = path.parent() else {
        return Err(Errno::ENOENT);
    };
    let name = file::c_path(parent)?;
    match file::mkdir(&name, 0o700) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(Errno::ENOENT) => {
            make_parents(parent)?;
            match file::mkdir(&name, 0o700) {
                Err(Errno::EEXIST) => Ok(()),
                other => other,
            }
        }
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn dirs(root: &Path) -> Dirs {
        Dirs {
            state: root.join("a/b/state"),
            sessions: root.join("sessions"),
        }
    }

    #[test]
    fn a_library_finds_the_state_directory_by_its_path() {
        let found = Dirs::for_library(Some(Path::new("/x/y/lib-0123/libbpftime_agent.so")));
        assert_eq!(found.state, Path::new("/x/y"));
    }

    #[test]
    fn makes_private_directories_with_parents() {
        let root = tempfile::tempdir().unwrap();
        let dirs = dirs(root.path());
        dirs.ensure_state().unwrap();
        let mode = std::fs::metadata(&dirs.state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(!dirs.have_sessions());
        dirs.ensure_sessions().unwrap();
        assert!(dirs.have_sessions());
        dirs.ensure_sessions().unwrap();
    }

    #[test]
    fn a_symbolic_link_or_file_in_our_place_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dirs = dirs(root.path());
        std::os::unix::fs::symlink("/tmp", &dirs.sessions).unwrap();
        let error = dirs.ensure_sessions().unwrap_err();
        assert!(matches!(error, SessionError::Foreign { .. }), "{error}");
        std::fs::remove_file(&dirs.sessions).unwrap();
        std::fs::write(&dirs.sessions, "").unwrap();
        let error = dirs.ensure_sessions().unwrap_err();
        assert!(matches!(error, SessionError::Foreign { .. }), "{error}");
    }

    #[test]
    fn an_impossible_place_names_the_variable() {
        let dirs = Dirs {
            state: "/proc/nowhere/state".into(),
            sessions: "/proc/nowhere".into(),
        };
        let text = dirs.ensure_sessions().unwrap_err().to_string();
        assert!(text.starts_with("cannot write /proc/nowhere"), "{text}");
        assert!(text.contains(SESSION_VARIABLE), "{text}");
    }

    #[test]
    fn home_directories() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nnone:x:7:7::/:/bin/false\nu:x:1000:1000:,:/home/u:/bin/sh\n";
        assert_eq!(home_in(passwd, 1000), Some("/home/u".into()));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 9), None);
    }
}
