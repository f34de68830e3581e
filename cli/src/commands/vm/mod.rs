//! `bpftime vm`: the eBPF machine by itself, without sessions and hooks.

mod helpers;
mod run;

use clap::Subcommand;

use crate::problem::Problem;

/// Run bytecode without a tool or a target
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), Problem> {
    match args.command {
        Command::Run(args) => run::run(args),
    }
}
