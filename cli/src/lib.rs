//! The `bpftime` command: starts tools and targets with the preloaded
//! libraries it carries, injects the agent into running processes, and says
//! what is going on. Only the subcommands `verify` and `vm` know eBPF.
//!
//! Reading order: [`commands`] (one file per subcommand), [`launch`]
//! (exec with a library preloaded), [`program_file`] (what can be started
//! so), [`elf_head`], [`libraries`] (the two libraries on disk), [`sessions_dir`] (room for
//! a session), `standard_streams`, `children`, [`inject`] (into a running process), [`problem`] (what a user is told).

mod children;
mod commands;
mod elf_head;
mod inject;
mod launch;
mod libraries;
mod log;
mod problem;
mod program_file;
mod sessions_dir;
mod standard_streams;
mod supervise;

use std::io::Write;

/// Does what the command line asks and returns the exit status.
pub fn run() -> u8 {
    let filled = standard_streams::fill().map_err(|error| {
        let happened = format_args!("cannot be opened ({})", libraries::reason(&error));
        problem::Problem::new("/dev/null", happened, "keep stdin, stdout and stderr open")
    });
    let Err(problem) = filled.and_then(|()| commands::run(commands::read())) else {
        return 0;
    };
    tell(&problem);
    problem.status()
}

/// One line on stderr.
fn tell(problem: &problem::Problem) {
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(std::io::stderr(), "bpftime: {problem}");
}
