//! The virtual trace_pipe: what programs print (`bpf_trace_printk`), line by
//! line, for any process of the user, first come, first served. A FIFO in the
//! session's directory, which a thread of the tool fills from the session's
//! ring: what nobody has read yet is lost with the tool. It knows no format.

use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use runtime::barrier;
use runtime::command::timer::with_signals_blocked;
use runtime::command::{MapObject, Object};
use runtime::session::{Dirs, view};
use uapi::Errno;

use crate::bridge::Waker;
use crate::fds::{self, PrivateFd};
use crate::server::{self, Server};
use crate::tracefs::{self, tree};
use crate::{log, raw};

/// The file's name, in tracefs and in the session's directory.
const NAME: &str = "trace_pipe";
/// Bytes that wait for a reader, where the user may have so many.
const ROOM: usize = 1 << 20;

/// Serves what programs print, as soon as one does.
pub fn serve(server: &'static Server) {
    static ONCE: Once = Once::new();
    if let Some(ring) = server.bpf.trace_ring() {
        ONCE.call_once(|| {
            if let Err(errno) = start(server, ring) {
                log::debug(format_args!("no trace_pipe: {errno}"));
            }
        });
    }
}

fn start(server: &'static Server, ring: &Arc<MapObject>) -> Result<(), Errno> {
    let pipe = server.bpf.session()?.path().join(NAME);
    let pipe = CString::new(pipe.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let (at, path) = (libc::AT_FDCWD as usize, pipe.as_ptr() as usize);
    let mode = (libc::S_IFIFO | 0o600) as usize;
    raw::checked(libc::SYS_mknodat, [at, path, mode, 0, 0, 0])?;
    // For both directions: neither we nor readers wait for the other.
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let pipe =
        private(raw::checked(libc::SYS_openat, [at, path, flags as usize, 0, 0, 0])? as c_int)?;
    let resize = [
        pipe.raw() as usize,
        libc::F_SETPIPE_SZ as usize,
        ROOM,
        0,
        0,
        0,
    ];
    // It stays small where the user has reached a limit.
    let _ = raw::checked(libc::SYS_fcntl, resize);
    let woken = private(fds::eventfd()?)?;
    let waker = Waker::new(Object::Map(Arc::clone(ring)), woken.raw())?;
    server.bridge.watch(&waker)?;
    let ring = Arc::clone(ring);
    let pump = move || {
        loop {
            wait(&woken);
            if let Some(ring) = ring.map().ring() {
                ring.drain(|line| {
                    let line = [
                        pipe.raw() as usize,
                        line.as_ptr() as usize,
                        line.len(),
                        0,
                        0,
                        0,
                    ];
                    // Nobody reads: the line is lost.
                    let _ = raw::checked(libc::SYS_write, line);
                });
            }
            if !waker.calm() {
                // Who prints from now on sees that it was waited for.
                barrier::heavy();
            }
            waker.raise();
        }
    };
    let thread = std::thread::Builder::new().name("bpftime-trace".to_owned());
    with_signals_blocked(|| thread.spawn(pump)).map_err(|_| Errno::EAGAIN)?;
    Ok(())
}

/// The same file under a number that the tool cannot close.
fn private(fd: c_int) -> Result<PrivateFd, Errno> {
    let private = PrivateFd::duplicate(fd);
    raw::close(fd);
    private
}

fn wait(fd: &PrivateFd) {
    let mut poll = libc::pollfd {
        fd: fd.raw(),
        events: libc::POLLIN,
        revents: 0,
    };
    let forever = -1i64 as usize;
    raw::call(
        libc::SYS_poll,
        [&raw mut poll as usize, 1, forever, 0, 0, 0],
    );
}

/// The file that the path of a trace_pipe leads to: the tool's own, else that
/// of the user's latest tool that prints.
pub fn redirected(path: &[u8]) -> Option<CString> {
    if !is_trace_pipe(path) {
        return None;
    }
    own().or_else(latest).and_then(c_path)
}

/// The same, of a tool that prints only: it reads no other.
pub fn of_tool(path: &[u8]) -> Option<CString> {
    if !is_trace_pipe(path) {
        return None;
    }
    own().and_then(c_path)
}

fn is_trace_pipe(path: &[u8]) -> bool {
    let Some(directory) = path.strip_suffix(NAME.as_bytes()) else {
        return false;
    };
    let directory = directory.strip_suffix(b"/").unwrap_or(directory);
    let is_root = |root: &&str| root.as_bytes() == directory;
    let tree = || tree::existing().map(|trees| trees.join(tree::TRACING));
    tracefs::ROOTS.iter().any(is_root)
        || tree().is_some_and(|tree| tree.as_os_str().as_bytes() == directory)
}

fn own() -> Option<PathBuf> {
    let server = server::existing()?;
    server.bpf.trace_ring()?;
    Some(server.bpf.session().ok()?.path().join(NAME))
}

fn latest() -> Option<PathBuf> {
    let dirs = Dirs::for_library(server::own_path().as_deref());
    let pipes = view::list(&dirs)
        .into_iter()
        .map(|session| session.join(NAME));
    let made = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
    let pipes = pipes.filter_map(|path| made(&path).map(|made| (made, path)));
    pipes.max().map(|(_, path)| path)
}

fn c_path(path: impl AsRef<Path>) -> Option<CString> {
    CString::new(path.as_ref().as_os_str().as_bytes()).ok()
}
