//! `bpftime prog`: the programs of running tools, as code. It changes nothing.

mod dump;
mod list;
mod pin;

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
    #[command(visible_alias = "show")]
    List(list::Args),
    Dump(dump::Args),
    Pin(pin::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), Problem> {
    match args.command {
        Command::List(args) => list::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Pin(args) => pin::run(&args),
    }
}
