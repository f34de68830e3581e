//! Loads the agent into a running process by ptrace(2). It knows no session:
//! the agent finds its work by itself.
//!
//! One thread is borrowed for a few milliseconds, at a point where it holds
//! none of the locks that dlopen(3) takes; all others run on. Everything the
//! thread could notice is saved before and restored after: registers, vector
//! state, signal mask, `errno`, the interrupted system call. It runs on a
//! stack of ours and comes back through a system call, so no code and no
//! byte of its own memory changes and no fault is raised.
//!
//! Reading order: [`permission`] (may we), [`target`] (what is where, with
//! [`maps`]), [`thread`] (a seized thread),
//! [`safe_point`] (where it may be borrowed), [`borrowed`] (calls in it).

mod arch;
mod borrowed;
mod maps;
mod permission;
mod safe_point;
mod target;
mod thread;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::Pid;

use crate::libraries::Library;
use crate::log::debug;
use crate::problem::Problem;
use borrowed::Borrowed;
use target::Target;
use thread::{Lost, Thread};

/// How long the target may take to reach a safe point.
const SAFE_POINT: Duration = Duration::from_secs(2);
/// How long loading and starting the agent may take, once there.
const CALLS: Duration = Duration::from_secs(10);
/// What the agent exports: `int bpftime_agent_start(const char *sessions)`,
/// not 0 when nothing
/// can be hooked.
const START: &str = "bpftime_agent_start";

/// Makes the process `pid` load the agent from `library`, unless it has it,
/// and start it on the session directory `sessions`.
pub fn inject(pid: Pid, library: &Path, sessions: &Path) -> Result<(), Problem> {
    let target = Target::inspect(pid, library)?;
    let path = c_string(library)?;
    let sessions = c_string(sessions)?;
    let start_offset = target::symbol(Library::Agent.bytes(), START).ok_or_else(|| {
        Problem::new(
            library.display(),
            format_args!("does not export {START}"),
            "install bpftime again",
        )
    })?;

    // Killed half way through, we would leave the thread in a borrowed state.
    let _quiet = Quiet::begin();
    let thread = safe_point::reach(&target, Instant::now() + SAFE_POINT)?;
    debug!("{pid}: borrowing thread {}", thread.tid());
    let begun = Instant::now();
    let mut borrowed = Borrowed::begin(thread, &target, Instant::now() + CALLS)
        .map_err(|lost| explain(pid, lost))?;
    let result = start(&mut borrowed, &target, &path, &sessions, start_offset);
    let returned = borrowed.give_back();
    debug!("{pid}: thread back after {:?}", begun.elapsed());
    match (result, returned) {
        (Ok(outcome), Ok(())) => outcome,
        (Err(lost), _) | (Ok(_), Err(lost)) => Err(explain(pid, lost)),
    }
}

/// Stops and releases the process `pid`, to see whether we may.
pub fn can_trace(pid: Pid, deadline: Instant) -> Result<(), Errno> {
    let _quiet = Quiet::begin();
    let mut thread = Thread::seize(pid)?;
    let stopped = thread
        .interrupt()
        .and_then(|()| thread.wait(deadline))
        .and_then(|_| thread.detach());
    stopped.map_err(|lost| match lost {
        Lost::Io(errno) => errno,
        _ => Errno::ETIMEDOUT,
    })
}

/// The calls in the borrowed thread. The outer error means that the thread is
/// lost, the inner one that the target refused.
fn start(
    borrowed: &mut Borrowed,
    target: &Target,
    path: &CString,
    sessions: &CString,
    start_offset: u64,
) -> Result<Result<(), Problem>, Lost> {
    let pid = target.pid;
    let base = match target.agent_base()? {
        Some(base) => base,
        None => {
            let path = borrowed.string(path)?;
            if borrowed.call(target.dlopen.address, [path, target.dlopen.flags])? == 0 {
                let why = match target.dlerror {
                    Some(dlerror) => {
                        let text = borrowed.call(dlerror, [0, 0])?;
                        borrowed.read_string(text)
                    }
                    None => "dlopen failed".to_owned(),
                };
                return Ok(Err(Problem::new(
                    pid,
                    format_args!("it cannot load the agent ({why})"),
                    "start it with bpftime start instead",
                )));
            }
            match target.agent_base()? {
                Some(base) => base,
                None => {
                    return Ok(Err(Problem::new(
                        pid,
                        "the agent was loaded but is not mapped",
                        "report this as a bug",
                    )));
                }
            }
        }
    };
    let sessions = borrowed.string(sessions)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the function returns a C int"
    )]
    let status = borrowed.call(base + start_offset, [sessions, 0])? as i32;
    if status != 0 {
        return Ok(Err(Problem::new(
            pid,
            "the agent could not start in it",
            "see bpftime doctor",
        )));
    }
    Ok(Ok(()))
}

/// What a lost thread means for the user.
fn explain(pid: Pid, lost: Lost) -> Problem {
    match lost {
        Lost::Ended => Problem::new(pid, "ended meanwhile", "start it again"),
        Lost::Replaced => Problem::new(pid, "became another program meanwhile (exec)", "try again"),
        Lost::Late => Problem::new(
            pid,
            format_args!(
                "loading the agent took over {} s and was given up",
                CALLS.as_secs()
            ),
            "try again, or start it with bpftime start",
        ),
        Lost::Crashed(signal) => Problem::new(
            pid,
            format_args!(
                "loading the agent raised {} and was undone",
                signal_name(signal)
            ),
            "start it with bpftime start instead",
        ),
        Lost::Io(errno) => Problem::new(
            pid,
            format_args!("cannot be traced ({})", errno.desc()),
            "see bpftime doctor",
        ),
    }
}

fn signal_name(signal: i32) -> &'static str {
    Signal::try_from(signal).map_or("a signal", Signal::as_str)
}

fn c_string(path: &Path) -> Result<CString, Problem> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Problem::new(path.display(), "contains a NUL byte", "use another path"))
}

/// Holds back the signals that would end or stop us, and SIGCHLD, for which
/// [`thread`] waits.
struct Quiet {
    before: SigSet,
}

impl Quiet {
    fn begin() -> Self {
        let mut signals = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGTSTP,
        ] {
            signals.add(signal);
        }
        let mut before = SigSet::empty();
        // Cannot fail: the first argument is one of the three allowed.
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before));
        Self { before }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // As above.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None);
    }
}
