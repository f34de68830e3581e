//! Loads the agent into a running process by ptrace(2). It knows no session:
//! the agent finds its work by itself.
//!
//! One thread is borrowed for a few milliseconds, at a point where it holds
//! none of the locks that dlopen(3) takes; all others run on. Everything the
//! thread could notice is as before when it is back: registers, vector state,
//! signal mask, `errno`, the interrupted system call. It is sent on its way by
//! one change of its registers, to code of ours in unused room behind a
//! library's text; that code needs a mapping and a stack of its own, and does
//! the rest without us. So we may be killed at any moment.
//!
//! Reading order: [`permission`] (may we), [`target`] (what is where, with
//! [`maps`] and [`slot`]), [`guest`] (what one in a container is handed), [`thread`] (a seized thread),
//! [`safe_point`] (where it may be borrowed), [`errand`] (what it then does).

mod arch;
mod errand;
mod guest;
mod maps;
mod needs;
mod permission;
mod safe_point;
mod seccomp;
mod slot;
mod target;
mod thread;

use std::ffi::CString;
use std::fs::{File, TryLockError};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::Pid;
use runtime::session::Dirs;

use crate::libraries::Library;
use crate::log::debug;
use crate::problem::Problem;
use errand::{Errand, Outcome};
use guest::Guest;
use target::Target;
use thread::{Lost, Thread};

/// How long the target may take to reach a safe point.
const SAFE_POINT: Duration = Duration::from_secs(3);
/// How long loading and starting the agent may take, once there.
const CALLS: Duration = Duration::from_secs(10);
/// How often to look whether another command is done.
const LOOK: Duration = Duration::from_millis(1);
/// What the agent exports: `int bpftime_agent_start(const char *sessions)`,
/// not 0 when nothing
/// can be hooked.
const START: &str = "bpftime_agent_start";
/// As that, for a guest: `int bpftime_agent_start_guest(const struct handed *, struct link_map *)`.
const START_GUEST: &str = "bpftime_agent_start_guest";
/// Behind either, for who wants breakpoints.
const WITH_BREAKPOINTS: &str = "_with_breakpoints";

/// Makes the process `pid` load the agent from `library`, unless it has it,
/// and start it on the sessions directory of `dirs`.
pub fn inject(
    pid: Pid,
    library: &Path,
    dirs: &Dirs,
    with_breakpoints: bool,
) -> Result<(), Problem> {
    let _alone = alone(pid)?;
    // Interrupted half way through, we would not tell what became of it.
    let _quiet = Quiet::begin();
    let target = Target::inspect(pid, library, &dirs.sessions)?;
    let guest = target.is_guest.then(|| Guest::open(pid, library, dirs));
    let guest = guest.transpose()?;
    let done = run(target, library, dirs, guest.as_ref(), with_breakpoints);
    if done.is_err()
        && let Some(guest) = guest
    {
        guest.forget();
    }
    done
}

fn run(
    mut target: Target,
    library: &Path,
    dirs: &Dirs,
    guest: Option<&Guest>,
    with_breakpoints: bool,
) -> Result<(), Problem> {
    let pid = target.pid;
    let (path, directory) = (c_string(library)?, c_string(&dirs.sessions)?);
    let start = match (guest.is_some(), with_breakpoints) {
        (false, false) => START.to_owned(),
        (true, false) => START_GUEST.to_owned(),
        (false, true) => format!("{START}{WITH_BREAKPOINTS}"),
        (true, true) => format!("{START_GUEST}{WITH_BREAKPOINTS}"),
    };
    let errand = Errand {
        library: &path,
        sessions: &directory,
        guest,
        start: target::symbol(Library::Agent.bytes(), &start).ok_or_else(|| {
            Problem::new(
                library.display(),
                format_args!("does not export {start}"),
                "install bpftime again",
            )
        })?,
    };
    let deadline = Instant::now() + SAFE_POINT;
    loop {
        let borrowed = safe_point::reach(&target, deadline)?;
        if !target.is_the_same() {
            if Instant::now() >= deadline {
                return Err(explain(pid, Lost::Replaced));
            }
            drop(borrowed);
            target = Target::inspect(pid, library, &dirs.sessions)?;
            continue;
        }
        let tid = borrowed.0.tid();
        if target.is_sandboxed && !seccomp::lets_an_agent_live(tid) {
            return Err(permission::sandboxed(pid));
        }
        let Some(slot) = slot::for_thread(&target.slots, tid) else {
            return Err(Problem::new(
                pid,
                "there is no room in it for the code that loads the agent",
                "start it with bpftime start instead",
            ));
        };
        debug!("{pid}: borrowing thread {tid}");
        let begun = Instant::now();
        let outcome = errand::run(borrowed, &target, slot, &errand, begun + CALLS);
        debug!("{pid}: {outcome:?} after {:?}", begun.elapsed());
        match outcome {
            Err(Lost::Disturbed) if Instant::now() < deadline => {
                target = Target::inspect(pid, library, &dirs.sessions)?;
            }
            outcome => return result(pid, outcome),
        }
    }
}

/// Keeps other commands away from the process, as long as the file is open:
/// two would choose the same room in it.
fn alone(pid: Pid) -> Result<Option<File>, Problem> {
    // What can be wrong with the process is told later.
    let Ok(directory) = File::open(format!("/proc/{pid}")) else {
        return Ok(None);
    };
    let deadline = Instant::now() + CALLS;
    while matches!(directory.try_lock(), Err(TryLockError::WouldBlock)) {
        if Instant::now() >= deadline {
            return Err(Problem::new(
                pid,
                "another bpftime is attaching to it",
                "try again",
            ));
        }
        std::thread::sleep(LOOK);
    }
    Ok(Some(directory))
}

/// What became of the errand, for the user.
fn result(pid: Pid, outcome: Result<Outcome, Lost>) -> Result<(), Problem> {
    match outcome {
        Ok(Outcome::Started) => Ok(()),
        Ok(Outcome::NotStarted) => Err(Problem::new(
            pid,
            "the agent could not start in it",
            "see bpftime doctor",
        )),
        Ok(Outcome::NotLoaded(why)) => Err(Problem::new(
            pid,
            format_args!("it cannot load the agent ({why})"),
            "start it with bpftime start instead",
        )),
        Ok(Outcome::NotHanded(errno)) => Err(Problem::new(
            pid,
            format_args!(
                "the agent's files cannot be handed to it ({})",
                errno.desc()
            ),
            "run bpftime inside its container",
        )),
        Ok(Outcome::NoMemory) => Err(Problem::new(
            pid,
            "it may not map more memory (ulimit -v or -d)",
            "raise its limit (prlimit --as or --data)",
        )),
        Err(lost) => Err(explain(pid, lost)),
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

/// What a lost thread means for the user.
fn explain(pid: Pid, lost: Lost) -> Problem {
    match lost {
        Lost::Ended => permission::ended(pid),
        Lost::Io(_) if permission::has_ended(pid) => permission::ended(pid),
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
        Lost::Stopped => permission::stopped(pid),
        Lost::Disturbed => Problem::new(
            pid,
            "signals came too fast to load the agent",
            "try again, or start it with bpftime start",
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
    let path_is = |what| Problem::new(path.display(), what, "use another path");
    if path.as_os_str().len() >= libc::PATH_MAX as usize {
        return Err(path_is("is too long"));
    }
    CString::new(path.as_os_str().as_bytes()).map_err(|_| path_is("contains a NUL byte"))
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
