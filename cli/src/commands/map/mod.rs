//! `bpftime map`: the maps of running tools, in the words of bpftool(8).
//!
//! Reading order: `found` (which map), `list`, `dump`, `element` (look up,
//! update, delete), `export`; then `walk`, `entry` and `typed` (how a key and a value
//! are printed), `words` (how they are given), `histogram`.

mod dump;
mod element;
mod entry;
mod export;
mod found;
mod histogram;
mod list;
mod typed;
mod walk;
mod words;

use clap::Subcommand;

use crate::problem::Problem;

/// Look into the maps of running tools and change them
///
/// MAP is an id, a name, id ID or name NAME. Names, layout and JSON are those
/// of bpftool map.
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
    Lookup(element::LookupArgs),
    Update(element::UpdateArgs),
    Delete(element::DeleteArgs),
    Export(export::Args),
    Pin(element::PinArgs),
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<(), Problem> {
    match args.command {
        Command::List(args) => list::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Lookup(args) => element::lookup(&args),
        Command::Update(args) => element::update(&args),
        Command::Delete(args) => element::delete(&args),
        Command::Export(args) => export::run(&args),
        Command::Pin(args) => element::pin(&args),
    }
}
