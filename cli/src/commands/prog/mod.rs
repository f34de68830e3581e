//! `bpftime prog`: the programs of running tools, as code. It changes nothing.

mod dump;

use clap::Subcommand;

use crate::problem::Problem;

/// Look into the programs of running tools
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dump(dump::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), Problem> {
    match args.command {
        Command::Dump(args) => dump::run(&args),
    }
}
