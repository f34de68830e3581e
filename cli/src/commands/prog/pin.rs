//! `bpftime prog pin`.

use std::path::PathBuf;

use runtime::session::ObjectKind;

use super::super::chosen::Chosen;
use super::dump::wanted;
use crate::problem::Problem;

/// Name a program in /sys/fs/bpf: it outlives its tool
#[derive(clap::Args)]
pub struct Args {
    /// Its id or name
    #[arg(value_name = "PROGRAM")]
    program: String,
    /// A path below /sys/fs/bpf
    #[arg(value_name = "PATH")]
    path: PathBuf,
    #[command(flatten)]
    chosen: Chosen,
}

/// Pins the program.
pub fn run(args: &Args) -> Result<(), Problem> {
    let views = args.chosen.views();
    let mut found = Vec::new();
    for view in &views {
        let programs = view.programs().into_iter();
        let wanted = programs.filter(|(id, spec)| wanted(Some(&args.program), *id, spec));
        found.extend(wanted.map(|(id, _)| (view, id)));
    }
    let problem = |happened: &str, advice: &str| {
        Problem::new(format_args!("program {}", args.program), happened, advice)
    };
    match found[..] {
        [(view, id)] => super::super::pin::pin(view, ObjectKind::Program, id, &args.path),
        [] => Err(problem("no such program", "bpftime prog list lists them")),
        _ => Err(problem("there are several", "name one by its id")),
    }
}
