//! The `bpftime` command: starts tools and targets with the preloaded
//! libraries it carries, injects the agent into running processes, and says
//! what is going on. It knows no eBPF.
//!
//! Reading order: [`commands`] (one file per subcommand), [`launch`]
//! (exec with a library preloaded), [`program_file`] (what can be started
//! so), [`libraries`] (the two libraries on disk), [`sessions_dir`] (room for
//! a session), [`problem`] (what a user is told).

mod commands;
mod dirs;
mod launch;
mod libraries;
mod log;
mod problem;
mod program_file;
mod sessions_dir;

use std::io::Write;

use clap::Parser;

/// Does what the command line asks and returns the exit status.
pub fn run() -> u8 {
    let Err(problem) = commands::run(commands::Cli::parse()) else {
        return 0;
    };
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(std::io::stderr(), "bpftime: {problem}");
    problem.status()
}
