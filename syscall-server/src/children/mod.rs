//! What programs that this process executes inherit: this library, so that
//! what they do is answered here, the agent, so that they are targets, or
//! neither. It knows no session but whether there is one.
//!
//! Wrappers (`sh -c`, `timeout`, `strace`) hand the library on, whoever
//! executes what. A process is a tool once it has a session, or has loaded
//! libbcc; then
//! - what it executes in its own place is still what the user asked for, and
//!   inherits the library;
//! - children are targets, as the kernel's probes would reach them, and inherit
//!   the agent, also those that were forked before;
//! - what it has a shell do before there is a session (`modprobe`, `clang`,
//!   `ldconfig`) helps it, and inherits nothing.
//!
//! All this happens between fork(2) or vfork(2) and execve(2), too, so nothing
//! here allocates, locks or calls libc.
//!
//! Reading order: this file (who gets what), [`list`] (the environment),
//! [`program`] (whose loader would take a library), [`variables`] (the own environment), [`strings`] (whether they are there), [`room`].

pub mod list;
pub mod program;
pub mod room;
pub mod strings;
pub mod variables;

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::environment::AGENT;
use crate::user::look;
use crate::{raw, server};
use list::Own;

/// What an executed program inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inheritance {
    /// This library.
    Server,
    /// The agent.
    Agent,
    /// Neither.
    Nothing,
}

/// What this process was when its program began.
struct Beginning {
    /// Its id: forked children have another, those of vfork(2) included.
    pid: i32,
    /// Address of a word that it shares with the children it forks: its id, as
    /// soon as it has a session.
    tool: usize,
    own: Own,
}

static BEGINNING: OnceLock<Beginning> = OnceLock::new();

/// Notes who the process is; once, before its program begins.
pub fn begin() {
    let Some(path) = server::own_path() else {
        return;
    };
    // The first look finds out how to look.
    look::may_read(0);
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let agent = Some(path.with_file_name(AGENT)).filter(|agent| is_there(agent));
    let shared = raw::checked(
        libc::SYS_mmap,
        [
            0,
            size_of::<AtomicI32>(),
            (libc::PROT_READ | libc::PROT_WRITE) as usize,
            (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as usize,
            usize::MAX,
            0,
        ],
    );
    // Without memory for that, children that were forked before the session
    // inherit what their parent does.
    let _ = BEGINNING.set(Beginning {
        pid: shm::sys::getpid(),
        tool: shared.unwrap_or(0),
        own: Own::new(bytes(&path), agent.as_deref().map(bytes)),
    });
}

/// Asks the kernel, not what answers tools.
fn is_there(path: &Path) -> bool {
    CString::new(path.as_os_str().as_bytes()).is_ok_and(|path| {
        let arguments = [path.as_ptr() as usize, libc::F_OK as usize, 0, 0, 0, 0];
        raw::checked(libc::SYS_access, arguments).is_ok()
    })
}

impl Beginning {
    fn tool(&self) -> Option<&AtomicI32> {
        // SAFETY: null, or a word that was mapped for ever.
        unsafe { (self.tool as *const AtomicI32).as_ref() }
    }

    /// What children of a tool inherit.
    fn for_children(&self) -> Inheritance {
        match self.own.has_agent() {
            true => Inheritance::Agent,
            false => Inheritance::Nothing,
        }
    }

    /// Whether the program that began here is a tool by now.
    fn is_tool(&self) -> bool {
        has_session(self) || has_bcc()
    }
}

/// Notes that the process has a session: its own environment is for children
/// from now on, whom libc's `system` and `popen` give it.
pub fn have_session() {
    let Some(beginning) = BEGINNING.get() else {
        return;
    };
    if let Some(tool) = beginning.tool() {
        // Pairs with the load in `has_session`, mostly in a child.
        tool.store(shm::sys::getpid(), Ordering::Release);
    }
    let envp = variables::now();
    if !envp.is_null() {
        let inherits = beginning.for_children();
        // SAFETY: libc's array of strings, of which only ours is not for ever.
        let exchange = |envp| unsafe { variables::exchange(envp) };
        // SAFETY: as above.
        unsafe { list::with(&beginning.own, inherits, envp, exchange) };
    }
}

/// Whether the process has a session, or that has from which it was forked.
fn has_session(beginning: &Beginning) -> bool {
    server::existing().is_some()
        || beginning
            .tool()
            .is_some_and(|tool| tool.load(Ordering::Acquire) == beginning.pid)
}

/// Which process executes a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The caller, in its own place.
    Caller,
    /// A child that is made for it.
    Child,
    /// A shell that is made for it.
    Shell,
}

/// Whether a shell that is made for this process inherits the right things with
/// its own environment.
pub fn own_environment_will_do() -> bool {
    let wants_other = |beginning: &Beginning| beginning.is_tool() && server::existing().is_none();
    !BEGINNING.get().is_some_and(wants_other)
}

/// Calls `execute` with the environment for a program: `envp` (terminated by
/// null, as execve(2) takes it; null is an empty one) with what the program inherits of ours. `path`
/// below `directory` is the program's file, where that is known. If `envp` leads
/// to no such strings, `execute` gets it as it is.
pub fn with_environment<R>(
    who: Who,
    directory: i32,
    path: Option<&CStr>,
    envp: *const usize,
    execute: impl FnOnce(*const usize) -> R,
) -> R {
    static EMPTY: [usize; 1] = [0];
    let Some(beginning) = BEGINNING.get() else {
        return execute(envp);
    };
    let envp = match envp.is_null() {
        true => EMPTY.as_ptr(),
        false if !strings::are_there(envp as u64) => return execute(envp),
        false => envp,
    };
    let mut inherits = inheritance(beginning, who);
    if inherits != Inheritance::Nothing
        && !path.is_none_or(|path| program::takes_libraries(directory, path))
    {
        inherits = Inheritance::Nothing;
    }
    // SAFETY: an array of strings, as was just seen.
    unsafe { list::with(&beginning.own, inherits, envp, execute) }
}

fn inheritance(beginning: &Beginning, who: Who) -> Inheritance {
    let in_place = who == Who::Caller && shm::sys::getpid() == beginning.pid;
    if in_place || !beginning.is_tool() {
        Inheritance::Server
    } else if who == Who::Shell && !has_session(beginning) {
        Inheritance::Nothing
    } else {
        beginning.for_children()
    }
}

/// Whether libbcc is mapped, as in every process of bcc and bpftrace.
fn has_bcc() -> bool {
    const NAME: &[u8] = b"/libbcc";
    let path = c"/proc/self/maps";
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    let at = libc::AT_FDCWD as usize;
    let Ok(fd) = raw::checked(
        libc::SYS_openat,
        [at, path.as_ptr() as usize, flags, 0, 0, 0],
    ) else {
        return false;
    };
    let mut bytes = [0u8; 2048];
    // What a name that two reads share has in the first one.
    let mut kept = 0;
    let found = loop {
        let room = &mut bytes[kept..];
        let arguments = [fd, room.as_mut_ptr() as usize, room.len(), 0, 0, 0];
        match raw::checked(libc::SYS_read, arguments) {
            Ok(0) | Err(_) => break false,
            Ok(read) => {
                let end = kept + read;
                if bytes[..end].windows(NAME.len()).any(|name| name == NAME) {
                    break true;
                }
                kept = end.min(NAME.len() - 1);
                bytes.copy_within(end - kept..end, 0);
            }
        }
    };
    raw::close(fd as i32);
    found
}
