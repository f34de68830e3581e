//! `bpftime status`: what runs where. It reads sessions and the roster and
//! changes neither.
//!
//! Reading order: [`report`] (what is told), [`text`] (for people), `names`
//! (the kernel's words for numbers).

pub(super) mod names;
mod report;
pub(super) mod text;

use runtime::session::{self, Dirs};

use crate::problem::Problem;
use report::Report;

/// Show sessions, programs, maps, links and targets
///
/// A session is one tool under bpftime load; a target is one process that
/// tools can reach. HITS counts runs of a program, MISSED counts calls of the
/// function that did not run it, DROPS counts records that a ring had no room
/// for. Exit status 0, also when nothing runs.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON for other programs
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  bpftime status
  bpftime status --json | jq '.sessions[].links[] | {path, hits}'";

/// Prints the report.
pub fn run(args: Args) -> Result<(), Problem> {
    let dirs = Dirs::for_cli();
    // What a killed sweeper has left.
    session::sweep(&dirs);
    let report = Report::collect(&dirs)?;
    let text = if args.json {
        let mut json = serde_json::to_string_pretty(&report)
            .map_err(|error| Problem::new("status", error, "report this as a bug"))?;
        json.push('\n');
        json
    } else {
        text::render(&report)
    };
    super::print(&text)
}
