//! What exists once the process is a tool: its session, made by the first
//! bpf(2) call. It knows no command and no fd.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use runtime::command::Bpf;
use runtime::command::timer::with_signals_blocked;
use runtime::own_stack;
use runtime::session::{Dirs, Session, SessionError, spawn_sweeper};
use uapi::Errno;

use crate::bridge::Bridge;
use crate::environment::Environment;
use crate::fds::FDS;
use crate::kernel::Kernel;
use crate::kernel::placement::Runtime;
use crate::perf::sampling::OwnSampler;
use crate::{caller, children, forks, log};

/// The tool's session and what serves it.
pub struct Server {
    /// The commands on the session.
    pub bpf: Bpf,
    /// Wakes readers of rings.
    pub bridge: Bridge,
    /// What the kernel hosts.
    pub kernel: Kernel,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// The server, if the process is a tool already.
pub fn existing() -> Option<&'static Server> {
    SERVER.get()
}

/// The server; makes the process a tool.
///
/// # Errors
/// EPERM when no session can be made, after one line on stderr that says why:
/// what an unprivileged user gets from the kernel.
pub fn server() -> Result<&'static Server, Errno> {
    static STARTING: Mutex<bool> = Mutex::new(false);
    if let Some(server) = SERVER.get() {
        return Ok(server);
    }
    let mut failed = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = SERVER.get() {
        return Ok(server);
    }
    if *failed {
        return Err(Errno::EPERM);
    }
    match start() {
        Ok(server) => Ok(SERVER.get_or_init(|| server)),
        Err(error) => {
            *failed = true;
            log::problem(format_args!("{error}"));
            Err(Errno::EPERM)
        }
    }
}

fn start() -> Result<Server, SessionError> {
    let tool = caller::supervised().map(|_| caller::pid());
    if tool.is_none() {
        note_stacks();
    }
    // What goes wrong in here is told as an errno, not on the tool's stderr.
    std::panic::set_hook(Box::new(|info| log::debug(format_args!("{info}"))));
    let environment = Environment::read();
    if environment.verify_only {
        forks::watch();
        return Ok(Server {
            bpf: Bpf::verify_only(),
            bridge: Bridge::default(),
            kernel: Kernel::none(Runtime::User),
        });
    }
    let own_path = own_path();
    let dirs = Dirs::for_library(own_path.as_deref());
    let session = Session::create_for(&dirs, tool)?;
    spawn_sweeper(&session)?;
    forks::watch();
    // The lock that is the session's life is one of its fds: a tool that
    // closes all fds it does not know must not close that.
    FDS.protect(&[session.path(), &dirs.state]);
    if tool.is_none() {
        children::have_session();
    }
    log::debug(format_args!("session {}", session.path().display()));
    let bpf = Bpf::seeing(session, environment.seen);
    bpf.set_sampler(Box::new(OwnSampler::default()));
    Ok(Server {
        bpf,
        bridge: Bridge::default(),
        kernel: match tool {
            None => Kernel::new(environment.runtime),
            Some(_) => Kernel::none(Runtime::Supervised),
        },
    })
}

/// Has the addresses of attributes, keys and values on stacks recognised.
fn note_stacks() {
    // Libc's notes are looked for on a thread that is not the first.
    let looked = with_signals_blocked(|| std::thread::spawn(own_stack::init).join());
    if looked.is_err() {
        return;
    }
    let stack = std::fs::read_to_string("/proc/self/maps")
        .ok()
        .and_then(|maps| {
            let line = maps.lines().find(|line| line.ends_with("[stack]"))?;
            u64::from_str_radix(line.split('-').next()?, 16).ok()
        });
    if let Some(low) = stack {
        own_stack::note_first_thread(low);
    }
}

/// The file that this code was loaded from.
pub fn own_path() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let code = own_path as *const libc::c_void;
    // SAFETY: `info` is a place for the answer, and any address may be asked for.
    let found = unsafe { libc::dladdr(code, &raw mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's name of a loaded file: a string that lives as long
    // as the file is loaded, which this code is.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    std::path::absolute(Path::new(OsStr::from_bytes(name.to_bytes()))).ok()
}
