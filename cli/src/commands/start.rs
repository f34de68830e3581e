//! `bpftime start`: runs a program that tools can trace.

use std::ffi::OsString;

use crate::launch::Program;
use crate::libraries::{self, Library};
use crate::problem::Problem;
use runtime::session::Dirs;

/// Run a program that tools can trace, and its children too
///
/// The program runs as it would without bpftime: same process id, output,
/// signals and exit status. Tools started before or after by `bpftime load`
/// reach it. It must be a dynamically linked 64-bit program for glibc.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Place breakpoints where no jump fits, by a handler for SIGTRAP
    #[arg(long)]
    breakpoints: bool,
    /// The program and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  bpftime start ./app --port 8080
  bpftime start bash                   everything typed there can be traced";

/// Becomes the program.
pub fn run(args: Args) -> Result<(), Problem> {
    let program = Program::find_preloadable(&args.command)?;
    let dirs = Dirs::for_cli();
    let library = libraries::unpack(&dirs, Library::Agent)?;
    let program = match args.breakpoints {
        true => program.with_variable("BPFTIME_BREAKPOINTS", "1")?,
        false => program,
    };
    program.exec(&library).map(|never| match never {})
}
