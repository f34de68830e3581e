//! Processes that the tool names get the agent by themselves, before a call
//! that puts a probe there returns. It knows no probe and not how an agent gets
//! into a process: `bpftime attach` does that.
//!
//! Named are the processes of events and links, and those of `-p` and `--pid`
//! on the tool's command line, for many tools compare ids in their programs only.
//!
//! Reading order: this file (who needs an agent), [`command_line`], [`helper`]
//! (the command that attaches).

pub mod command_line;
pub mod helper;

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, Once, PoisonError};

use runtime::session::{ProcessId, Role, Session};
use uapi::Errno;

use crate::environment::AGENT;
use crate::perf::place;
use crate::server::{self, Server};
use crate::{caller, log, own_process, raw};

/// What a probe is about to be put on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// One process, by the id of any of its threads.
    Process(i32),
    /// All of them.
    All,
}

impl Named {
    /// From the id that perf_event_open(2) takes.
    pub fn by_event(pid: i32) -> Named {
        match pid {
            -1 => Named::All,
            0 => Named::Process(caller::pid()),
            pid => Named::Process(pid),
        }
    }
}

/// Has the agent wherever a probe there needs it, as far as the tool names
/// processes. What cannot be attached to is told on stderr, once, and the tool
/// goes on: it sees no events from there.
///
/// # Errors
/// ESRCH when there is no such process.
pub fn reach(server: &Server, named: Named) -> Result<(), Errno> {
    static COMMAND_LINE: Once = Once::new();
    // What only verifies has no targets.
    let Ok(session) = server.bpf.session() else {
        return Ok(());
    };
    if let Named::Process(pid) = named {
        attach(session, place::tgid(pid)?);
    }
    COMMAND_LINE.call_once(|| {
        let arguments = std::fs::read(caller::in_proc("cmdline")).unwrap_or_default();
        let named_too = command_line::pids(&arguments);
        // Who has ended is the tool's to complain about.
        for pid in named_too.iter().filter_map(|&pid| place::tgid(pid).ok()) {
            attach(session, pid);
        }
        if named == Named::All && named_too.is_empty() {
            advise(session);
        }
    });
    Ok(())
}

/// Attaches to a process, once.
fn attach(session: &Session, pid: i32) {
    static SEEN: Mutex<Option<HashSet<ProcessId>>> = Mutex::new(None);
    if pid == caller::pid() {
        own_process::join();
        return;
    }
    let Ok(process) = ProcessId::of(pid) else {
        return;
    };
    // Held meanwhile: another thread that names it returns when it is a target, too.
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !seen.get_or_insert_default().insert(process) || has_agent(session, pid) || will_start(pid) {
        return;
    }
    match helper::attach(session.dirs(), pid) {
        Ok(said) => log::said(&said),
        // Not unpacked by `bpftime`: there is nobody to ask.
        Err(Errno::ENOENT) => log::debug(format_args!("no bpftime to attach to {pid}")),
        Err(errno) => log::problem(format_args!(
            "{pid}: no process can be made to attach to it ({errno}): run bpftime attach {pid}"
        )),
    }
}

fn has_agent(session: &Session, pid: i32) -> bool {
    let members = session.roster().members();
    let is_it =
        |member: &runtime::session::Member| member.process.pid == pid && member.role == Role::Agent;
    members.iter().any(is_it)
}

/// Whether the process is about to begin with the agent: a child that a tool
/// holds at its first instruction.
fn will_start(pid: i32) -> bool {
    let Some(agent) = server::own_path().map(|path| path.with_file_name(AGENT)) else {
        return false;
    };
    let agent = agent.as_os_str().as_bytes();
    let has = |file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.windows(agent.len()).any(|bytes| bytes == agent)
    };
    has("environ") && !has("maps")
}

/// Tells whoever sits before a terminal how processes get traced, if none is.
fn advise(session: &Session) {
    // SAFETY: asks about an fd.
    let on_terminal = unsafe { libc::isatty(2) } == 1;
    let is_agent = |member: &runtime::session::Member| member.role == Role::Agent;
    if on_terminal && !session.roster().members().iter().any(is_agent) && !has_children() {
        log::problem(format_args!(
            "no process is traced yet: start programs with bpftime start, or join running ones with bpftime attach PID"
        ));
    }
}

/// Whether the tool has children, who become targets when they execute a program.
fn has_children() -> bool {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let kind = libc::P_ALL as usize;
    let arguments = [kind, 0, info.as_mut_ptr() as usize, options as usize, 0, 0];
    // ECHILD is the answer of who has none.
    raw::checked(libc::SYS_waitid, arguments).is_ok()
}
