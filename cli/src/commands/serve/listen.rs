//! Where the service is reached: a Unix socket of the user's, or a TCP
//! address. It knows nothing of HTTP.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, umask};
use runtime::session::Dirs;

use crate::libraries::reason;
use crate::problem::Problem;

const NAME: &str = "bpftime.sock";

/// A socket in the file system, which goes with this.
pub struct Socket {
    pub path: PathBuf,
    pub listener: UnixListener,
    /// Held by who serves at the path.
    _lock: Flock<File>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Who comes next removes it otherwise.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the socket is when nobody says.
pub fn default_path() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(directory) if directory.is_absolute() => directory.join(NAME),
        _ => Dirs::for_cli().state.join(NAME),
    }
}

/// Listens at a path, for this user only. A socket that nobody serves is replaced.
pub fn unix(path: &Path) -> Result<Socket, Problem> {
    let failed = |error: io::Error| {
        Problem::new(
            path.display(),
            format_args!("cannot be served at ({})", reason(&error)),
            "name another path by --socket",
        )
    };
    let lock = lock(path).map_err(failed)?.ok_or_else(|| live(path))?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Problem::new(
                path.display(),
                "is no socket",
                "remove it, or name another path by --socket",
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(live(path)),
        Ok(_) => fs::remove_file(path).map_err(failed)?,
        Err(_) => {}
    }
    // This process has one thread.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Socket {
        path: path.to_owned(),
        listener,
        _lock: lock,
    })
}

/// The lock beside the socket, or `None` while somebody serves.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(name)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno.into()),
    }
}

fn live(path: &Path) -> Problem {
    Problem::new(
        path.display(),
        "another service is there",
        "use that one, or name another path by --socket",
    )
}

/// Listens at an address.
pub fn tcp(address: SocketAddr) -> Result<TcpListener, Problem> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        Problem::new(
            address,
            format_args!("cannot be listened at ({})", reason(&error)),
            "choose another address or port",
        )
    })
}
