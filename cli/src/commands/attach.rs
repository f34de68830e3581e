//! `bpftime attach`: lets tools trace running processes.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use runtime::session::{Dirs, Role, Roster};

use crate::inject;
use crate::libraries::{self, Library};
use crate::problem::Problem;

/// How long the agent may take to appear in the roster, and how often to look.
const JOIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(1);

/// Let tools trace running processes
///
/// Loads the agent into each process, which must be your own, dynamically
/// linked, 64-bit and for glibc. One of its threads is borrowed for a few
/// milliseconds; then the agent waits for tools, out of the way of calls that
/// need a process of one thread. Children that it starts with exec are not
/// followed; see bpftime start.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Place breakpoints where no jump fits, by a handler for SIGTRAP
    #[arg(long)]
    breakpoints: bool,
    /// Process ids
    #[arg(value_name = "PID", required = true, value_parser = clap::value_parser!(i32).range(1..))]
    pids: Vec<i32>,
}

const EXAMPLES: &str = "\
Examples:
  bpftime attach 1234
  bpftime attach $(pidof myserver)";

/// Attaches to every process that lets us.
pub fn run(args: Args) -> Result<(), Problem> {
    let dirs = Dirs::for_cli();
    let library = libraries::unpack(&dirs, Library::Agent)?;
    let roster = Roster::open(&dirs)?;
    each(args.pids, |pid| {
        inject::inject(Pid::from_raw(pid), &library, &dirs, args.breakpoints)?;
        joined(&roster, pid, &library)
    })
}

/// Attaches to one process, for another command.
pub fn let_trace(pid: i32) -> Result<(), Problem> {
    run(Args {
        breakpoints: false,
        pids: vec![pid],
    })
}

/// Waits until the agent has had its first look at everything: what comes
/// next, `status` or a tool, shall find it.
fn joined(roster: &Roster, pid: i32, library: &Path) -> Result<(), Problem> {
    let deadline = Instant::now() + JOIN;
    let generation = roster.generation();
    loop {
        if roster.members().iter().any(|member| {
            let behind = generation.wrapping_sub(member.acked).cast_signed() > 0;
            member.process.pid == pid && member.role == Role::Agent && !behind
        }) {
            return Ok(());
        }
        match loaded(pid, library) {
            None => return Err(Problem::new(pid, "ended meanwhile", "start it again")),
            Some(false) => {
                return Err(Problem::new(
                    pid,
                    "became another program meanwhile (exec)",
                    "try again",
                ));
            }
            Some(true) => {}
        }
        if Instant::now() >= deadline {
            return Err(Problem::new(
                pid,
                format_args!("its agent did not answer within {} s", JOIN.as_secs()),
                "bpftime status tells when it does",
            ));
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether the library is mapped in the process, `None` if nothing is any more.
fn loaded(pid: i32, library: &Path) -> Option<bool> {
    // Empty also for a process that nobody has waited for yet.
    let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
    let name = library.as_os_str().as_bytes();
    let mut lines = maps.split(|byte| *byte == b'\n');
    (!maps.is_empty()).then(|| lines.any(|line| line.ends_with(name)))
}

/// Does `work` for every process, and tells of all that fail.
pub fn each(
    pids: Vec<i32>,
    mut work: impl FnMut(i32) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut failed: Option<Problem> = None;
    for pid in pids {
        if let Err(problem) = work(pid)
            && let Some(earlier) = failed.replace(problem)
        {
            crate::tell(&earlier);
        }
    }
    failed.map_or(Ok(()), Err)
}
