//! The subcommands, one file each. To add one: a file with an `Args` and a
//! `run`, and a row in [`Command`] and in [`run`].

mod attach;
mod load;
mod start;

use clap::{Parser, Subcommand};

use crate::problem::Problem;

/// Trace programs with unmodified eBPF tools, in user space and without root.
#[derive(Parser)]
#[command(name = "bpftime", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  bpftime load bashreadline            run an eBPF tool
  bpftime start bash                   run a program that tools can trace
  bpftime attach $(pidof myserver)     let tools trace running processes
  bpftime status                       what runs where
  bpftime doctor                       what this machine and user can do

The order does not matter: load first or start first.
BPFTIME_LOG=debug shows more.";

#[derive(Subcommand)]
enum Command {
    Load(load::Args),
    Start(start::Args),
    Attach(attach::Args),
}

/// Runs the subcommand. `Ok` means exit status 0.
pub fn run(cli: Cli) -> Result<(), Problem> {
    match cli.command {
        Command::Load(args) => load::run(args),
        Command::Start(args) => start::run(args),
        Command::Attach(args) => attach::run(args),
    }
}
