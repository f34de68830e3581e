//! `bpftime login` and `bpftime logout`: users and passwords for registries.

use std::io::{self, BufRead, IsTerminal, Write};

use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::fetching;
use crate::libraries::reason;
use crate::problem::Problem;

/// Keep user and password for a registry
///
/// They are tried at once and kept, as docker keeps them, in
/// ~/.config/bpftime/auth.json for you alone. What docker or podman know is used
/// without another login.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The user's name; asked for on a terminal
    #[arg(long, short, value_name = "NAME")]
    user: Option<String>,

    /// Read the password from stdin; else it is asked for on a terminal
    #[arg(long)]
    password_stdin: bool,

    /// Speak plain HTTP to the registry, as to those on this machine
    #[arg(long)]
    insecure: bool,

    /// The registry, as in references
    #[arg(value_name = "REGISTRY")]
    registry: String,
}

const EXAMPLES: &str = "\
Examples:
  bpftime login ghcr.io -u me
  bpftime login localhost:5000 -u me --password-stdin < token";

/// Forget user and password for a registry
#[derive(clap::Args)]
pub struct LogoutArgs {
    /// The registry, as in references
    #[arg(value_name = "REGISTRY")]
    registry: String,
}

/// Tries user and password, and keeps them.
pub fn run(args: Args) -> Result<(), Problem> {
    let user = match args.user {
        Some(user) => user,
        None if args.password_stdin => return Err(missing("user", "name it by --user")),
        None => ask("User: ", "user", "name it by --user")?,
    };
    if user.is_empty() || user.contains(':') {
        return Err(missing("user", "a name without colon is wanted").with_status(2));
    }
    let password = match args.password_stdin {
        true => line("password")?,
        false => ask_in_secret()?,
    };
    if password.is_empty() {
        return Err(missing("password", "type it, or write it to stdin"));
    }
    let settings = fetching::plain_settings(args.insecure);
    let file =
        registry::login(&args.registry, &user, &password, &settings).map_err(fetching::problem)?;
    super::print(&format!(
        "{}: logged in; kept in {}\n",
        args.registry,
        file.display()
    ))
}

/// Forgets user and password.
pub fn logout(args: LogoutArgs) -> Result<(), Problem> {
    let gone = registry::logout(&args.registry, &fetching::places()).map_err(fetching::problem)?;
    match gone.elsewhere {
        None => super::print(&format!("{}: logged out\n", args.registry)),
        Some(file) => Err(Problem::new(
            &args.registry,
            format_args!("{} still has a login", file.display()),
            "log out there, too, by the tool that wrote it",
        )),
    }
}

fn missing(what: &str, advice: &str) -> Problem {
    Problem::new(what, "there is none", advice)
}

/// A line that the user types.
fn ask(prompt: &str, what: &str, instead: &str) -> Result<String, Problem> {
    if !io::stdin().is_terminal() {
        return Err(missing(what, instead));
    }
    // Nobody is left to be asked if stderr is gone.
    let _ = write!(io::stderr(), "{prompt}");
    line(what)
}

/// A line that is not shown.
fn ask_in_secret() -> Result<String, Problem> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin);
    if let Ok(before) = &before {
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        let _ = tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent);
    }
    let password = ask("Password: ", "password", "use --password-stdin");
    if let Ok(before) = before {
        let _ = tcsetattr(&stdin, SetArg::TCSADRAIN, &before);
        let _ = writeln!(io::stderr());
    }
    password
}

/// One line from stdin, without its end.
fn line(what: &str) -> Result<String, Problem> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| {
        Problem::new(
            what,
            format_args!("cannot be read ({})", reason(&error)),
            "check stdin",
        )
    })?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
