//! `bpftime detach`: makes agents leave running processes.

use std::path::Path;
use std::time::Duration;

use runtime::session::{self, Dirs, Role, Roster};

use super::attach::each;
use crate::problem::Problem;

/// How long an agent may take to unhook and leave.
const LEAVE: Duration = Duration::from_secs(5);

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
    // A process that ends meanwhile has no agent either.
    if roster.detach(pid, LEAVE) || !is_there() {
        return Ok(());
    }
    Err(Problem::new(
        pid,
        format_args!("its agent did not leave within {} s", LEAVE.as_secs()),
        "it leaves as soon as the process runs again; try again then",
    ))
}
