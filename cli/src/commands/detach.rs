//! `bpftime detach`: makes agents leave running processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use runtime::session::{self, Dirs, Role, Roster};

use super::attach::each;
use crate::problem::Problem;

/// How long an agent may take to unhook and leave.
const LEAVE: Duration = Duration::from_secs(5);
/// How long its thread may take to end after that.
const END: Duration = Duration::from_secs(1);

/// Take the agent out of running processes
///
/// All probes are gone from the process when this returns; other processes
/// and the tools are not affected. The library stays mapped but does nothing
/// until the process is attached to again.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Process ids
    #[arg(value_name = "PID", required = true, value_parser = clap::value_parser!(i32).range(1..))]
    pids: Vec<i32>,
}

const EXAMPLES: &str = "\
Examples:
  bpftime detach 1234
  bpftime detach $(pidof myserver)";

/// Detaches from every process that has an agent.
pub fn run(args: Args) -> Result<(), Problem> {
    let dirs = Dirs::for_cli();
    let roster = Roster::open(&dirs)?;
    let done = each(args.pids, |pid| detach(&roster, pid));
    // Guests had the sessions directory kept.
    session::sweep(&dirs);
    done
}

fn detach(roster: &Roster, pid: i32) -> Result<(), Problem> {
    let is_there = || {
        roster
            .members()
            .iter()
            .any(|member| member.process.pid == pid && member.role == Role::Agent)
    };
    if !is_there() {
        return Err(if Path::new(&format!("/proc/{pid}")).exists() {
            Problem::new(
                pid,
                "has no agent",
                "nothing to detach; bpftime status lists those that have one",
            )
        } else {
            Problem::new(
                pid,
                "no such process",
                "check the process id (pidof NAME, ps)",
            )
        });
    }
    let threads = agent_threads(pid);
    // A process that ends meanwhile has no agent either.
    if roster.detach(pid, LEAVE) || !is_there() {
        wait_for_the_end(&threads);
        return Ok(());
    }
    Err(Problem::new(
        pid,
        format_args!("its agent did not leave within {} s", LEAVE.as_secs()),
        "it leaves as soon as the process runs again; try again then",
    ))
}

/// What an agent's thread is named.
const THREAD: &str = "bpftime";

/// The threads of a process that are named as an agent's, as paths in /proc.
fn agent_threads(pid: i32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let names_agent = |task: &PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim_end() == THREAD)
    };
    tasks
        .into_iter()
        .flatten()
        .filter_map(|task| Some(task.ok()?.path()))
        .filter(names_agent)
        .collect()
}

/// An agent says that it left, then its thread ends: only then is the process
/// one of a single thread again, as unshare(2) and setns(2) ask. Given up
/// silently after a while: a stopped process ends its thread when it goes on.
fn wait_for_the_end(threads: &[PathBuf]) {
    let deadline = Instant::now() + END;
    while threads.iter().any(|thread| thread.exists()) && Instant::now() < deadline {
        sleep(Duration::from_millis(1));
    }
}
