//! From words to a subcommand. It knows no subcommand's meaning.
//!
//! To describe all subcommands to the parser takes it longer than a short
//! command's work. So those that start something, which are to be quick, are
//! described alone when they are asked for; what the parser says is the same.

use clap::error::ErrorKind;
use clap::{Args, Parser};

use super::{Cli, Command};

/// The command line, or what the parser has to say instead: then the process ends.
pub fn read() -> Command {
    let name = std::env::args_os().nth(1);
    match name.as_ref().and_then(|name| name.to_str()) {
        Some("attach") => Command::Attach(alone("attach")),
        Some("load") => Command::Load(alone("load")),
        Some("run") => Command::Run(alone("run")),
        Some("run-here") => Command::RunHere(alone("run-here")),
        Some("start") => Command::Start(alone("start")),
        _ => Cli::parse().command,
    }
}

/// What the user asks of the only subcommand described.
fn alone<A: Args>(name: &'static str) -> A {
    let mut command = only::<A>(name);
    let matches = command.get_matches_mut();
    let read = matches.subcommand_matches(name).map_or_else(
        || Err(clap::Error::new(ErrorKind::MissingSubcommand)),
        A::from_arg_matches,
    );
    read.unwrap_or_else(|error| error.format(&mut command).exit())
}

fn only<A: Args>(name: &'static str) -> clap::Command {
    let subcommand = A::augment_args(clap::Command::new(name));
    clap::Command::new("bpftime").subcommand(subcommand)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::{attach, load, run, start};
    use super::*;

    #[test]
    fn subcommands_say_alone_what_they_say_among_all() {
        let all = [
            ("attach", only::<attach::Args>("attach")),
            ("load", only::<load::Args>("load")),
            ("run", only::<run::Args>("run")),
            ("run-here", only::<run::Args>("run-here")),
            ("start", only::<start::Args>("start")),
        ];
        for (name, mut alone) in all {
            let lines: [&[&str]; 6] = [
                &[],
                &["--help"],
                &["-h"],
                &["--nothing"],
                &["-p"],
                &["--runtime", "nowhere", "true"],
            ];
            for words in lines {
                let words = [&["bpftime", name], words].concat();
                let say = |command: &mut clap::Command| {
                    let read = command.try_get_matches_from_mut(&words);
                    read.map(drop)
                        .map_err(|error| error.render().ansi().to_string())
                };
                assert_eq!(say(&mut alone), say(&mut Cli::command()), "{words:?}");
            }
        }
    }
}
