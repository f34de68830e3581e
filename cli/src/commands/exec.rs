//! `bpftime exec`: runs a command where running tools and their pins are seen.

use std::ffi::OsString;

use crate::launch::Program;
use crate::problem::Problem;
use runtime::session::{Dirs, SessionView, list};

/// Run a command that sees running tools' maps, programs and links, and pins
///
/// For bpftool and shells: ids lead to what running tools made, /sys/fs/bpf
/// shows what they pinned. What the command makes itself goes when it ends,
/// unless it is pinned.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Let ids lead to what the tool with this process id made, and nothing else
    #[arg(long, value_name = "PID")]
    session: Option<String>,
    /// The command and its arguments
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
  bpftime exec bpftool map list
  bpftime exec --session 4711 -- bpftool map dump name counts
  bpftime exec ls -l /sys/fs/bpf
  bpftime exec rm /sys/fs/bpf/my_link";

/// Which other sessions the server shows by id.
const SESSION: &str = "BPFTIME_SESSION";

/// Becomes the command.
pub fn run(args: Args) -> Result<(), Problem> {
    let dirs = Dirs::for_cli();
    let chosen = match &args.session {
        Some(session) => Some(find(&dirs, session)?),
        None => None,
    };
    // What it makes is not the kernel's to host.
    let mut program = Program::find(&args.command)?.with_variable("BPFTIME_RUNTIME", "user")?;
    if let Some(name) = chosen {
        program = program.with_variable(SESSION, &name)?;
    }
    program.exec_tool(&dirs, false).map(|never| match never {})
}

/// The directory of a session: of the tool with this pid, or by its own name.
fn find(dirs: &Dirs, session: &str) -> Result<String, Problem> {
    let mut known = Vec::new();
    for path in list(dirs) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if name == session || name.split_once('-').is_some_and(|(pid, _)| pid == session) {
            return Ok(name.to_owned());
        }
        if let Ok(view) = SessionView::open(&path) {
            let pid = name.split('-').next().unwrap_or(name);
            known.push(format!("{pid} ({})", view.command()));
        }
    }
    let advice = match known.is_empty() {
        true => "no tool runs; start one with bpftime load".to_owned(),
        false => format!("choose one of {}", known.join(", ")),
    };
    Err(Problem::new(
        format_args!("session {session}"),
        "there is none",
        advice,
    ))
}
