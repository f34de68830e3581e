//! `bpftime doctor`: what this machine and this user can do, in plain words.
//!
//! Reading order: [`finding`] (one line of it), [`user_space`] (what the main
//! job needs), [`kernel`] (what it does not need, but some tools want).

mod finding;
mod kernel;
mod user_space;

use runtime::session::Dirs;

use crate::problem::Problem;
use finding::Level;

/// Say what this machine and user can do, and what to do about the rest
///
/// Every line is ok, limited (something works less well, or not at all, but
/// tools and targets run) or missing (the main job cannot work). Exit status
/// 0 unless something is missing.
#[derive(clap::Args)]
pub struct Args {}

/// Prints every finding.
pub fn run(Args {}: Args) -> Result<(), Problem> {
    let dirs = Dirs::for_cli();
    let mut findings = user_space::all(&dirs);
    findings.extend(kernel::all());
    super::print(&finding::render(&findings))?;
    let missing = findings
        .iter()
        .filter(|finding| finding.level == Level::Missing)
        .count();
    if missing == 0 {
        return Ok(());
    }
    Err(Problem::new(
        "doctor",
        format_args!("{missing} missing"),
        "see the lines above",
    ))
}
