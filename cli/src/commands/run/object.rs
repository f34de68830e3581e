//! An object's story: opened, set, loaded, attached, followed, ended.

use std::io::{self, Write};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use loader::{Buffers, Loaded, Opened, Options, Target};

use super::here::{Asked, object_name};
use super::output::{Occasion, Output};
use super::report::Report;
use super::{settings, stop};
use crate::libraries::reason;
use crate::problem::{CANNOT_RUN, Problem};

/// How often an application is looked after while nothing is reported.
const LOOK: Duration = Duration::from_millis(50);

/// Lines of what libbpf and the verifier said that are shown.
const LOG_LINES: usize = 40;

pub fn run(asked: &Asked<'_>, bytes: &[u8]) -> Result<(), Problem> {
    let options = Options {
        name: object_name(asked.file),
        btf: asked.args.btf.clone(),
    };
    let mut opened = Opened::read(bytes, &options).map_err(problem)?;
    let btf = opened.types().map_err(problem)?;
    settings::apply(asked, &mut opened, btf.as_ref())?;
    let mut loaded = opened.load().map_err(problem)?;
    // A perf buffer that is not open yet loses what is reported.
    let buffers = loaded.buffers().map_err(problem)?;
    attach_all(asked, &mut loaded, |_| Target::Section)?;
    let mut report = Report::new(asked.args, &loaded, btf);
    stop::listen();
    let app = start(asked)?;
    follow(&loaded, buffers, &mut report, app)
}

/// A failure of libbpf's in a user's words; what it said comes before it.
pub(super) fn problem(error: loader::Error) -> Problem {
    let lines: Vec<&str> = error
        .messages
        .iter()
        .flat_map(|text| text.lines())
        .collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
        // Nobody is left to tell if stderr is gone.
        let _ = writeln!(io::stderr(), "{line}");
    }
    let advice = match error.errno {
        libc::EPERM | libc::EACCES => "see bpftime doctor for what you may do",
        libc::ENOENT => "check the names of its parts",
        _ => "bpftime verify shows what the verifier thinks of each program",
    };
    let happened = format!(
        "{} ({})",
        error.what,
        nix::errno::Errno::from_raw(error.errno).desc()
    );
    Problem::new(error.who, happened, advice)
}

/// Puts programs where the user wants them, and others where `usual` does.
pub(super) fn attach_all(
    asked: &Asked<'_>,
    loaded: &mut Loaded,
    usual: impl Fn(&str) -> Target,
) -> Result<(), Problem> {
    let programs = loaded.programs();
    let mut targets = Vec::new();
    for words in &asked.args.attach {
        let known = words
            .split_once('=')
            .filter(|(name, _)| programs.iter().any(|program| program.name == *name));
        let Some((name, target)) = known else {
            let names: Vec<&str> = programs
                .iter()
                .map(|program| program.name.as_str())
                .collect();
            let advice = format!("write PROGRAM=TARGET; programs are {}", names.join(", "));
            return Err(Problem::new(
                format_args!("--attach {words}"),
                "names no program of the object",
                advice,
            ));
        };
        targets.push((name, Target::from(target)));
    }
    for program in &programs {
        let asked_for = targets.iter().rev().find(|(name, _)| *name == program.name);
        let target = match asked_for {
            Some((_, target)) => target.clone(),
            None => usual(&program.name),
        };
        loaded
            .attach(&program.name, &target, asked.args.pid)
            .map_err(|error| match error.errno {
                libc::EINVAL => Problem::new(
                    &error.who,
                    &error.what,
                    format_args!("--attach {}=TARGET, or {}=off", error.who, error.who),
                ),
                _ => problem(error),
            })?;
    }
    Ok(())
}

/// Starts the application, which has the agent in it by what the session left
/// in our environment.
pub(super) fn start(asked: &Asked<'_>) -> Result<Option<Child>, Problem> {
    let Some((name, args)) = asked.app().split_first() else {
        return Ok(None);
    };
    let child = Command::new(name).args(args).spawn().map_err(|error| {
        Problem::new(
            name.to_string_lossy(),
            format_args!("cannot be started ({})", reason(&error)),
            "check the path",
        )
        .with_status(CANNOT_RUN)
    })?;
    Ok(Some(child))
}

/// Prints what comes until the user or the application ends it.
pub(super) fn follow(
    loaded: &Loaded,
    mut buffers: Buffers,
    output: &mut impl Output,
    mut app: Option<Child>,
) -> Result<(), Problem> {
    output.begin()?;
    let status = loop {
        let ended = match &mut app {
            Some(child) => child.try_wait().ok().flatten(),
            None => None,
        };
        if ended.is_none() {
            print(&mut buffers, output, wait(output.due(), app.is_some()))?;
        }
        if ended.is_some() || stop::asked() {
            break ended;
        }
        if output.due().is_some_and(|due| Instant::now() >= due) {
            output.maps(loaded, Occasion::Due)?;
        }
    };
    let status = match (status, &mut app) {
        (None, Some(child)) => child.wait().ok(),
        (status, _) => status,
    };
    // What was reported before it ended is all there.
    print_rest(&mut buffers, output)?;
    output.maps(loaded, Occasion::End)?;
    match status {
        Some(status) => exit_as(status),
        None => Ok(()),
    }
}

fn wait(next: Option<Instant>, app: bool) -> Duration {
    let due = next.map(|due| due.saturating_duration_since(Instant::now()));
    let most = if app { LOOK } else { Duration::from_secs(1) };
    due.map_or(most, |due| due.min(most))
}

/// Waits for records, or for `wait`, and prints those that are there.
fn print(buffers: &mut Buffers, output: &mut impl Output, wait: Duration) -> Result<(), Problem> {
    let mut printed = Ok(());
    let taken = buffers.poll(wait, |record| keep(&mut printed, || output.record(record)));
    printed?;
    output.flush()?;
    match taken {
        Err(error) if error.errno != libc::EINTR => Err(problem(error)),
        _ => Ok(()),
    }
}

/// Prints all that was reported until now.
fn print_rest(buffers: &mut Buffers, output: &mut impl Output) -> Result<(), Problem> {
    loop {
        let mut printed = Ok(());
        let taken = buffers.consume(|record| keep(&mut printed, || output.record(record)));
        printed?;
        if taken.map_err(problem)? == 0 {
            return output.flush();
        }
    }
}

/// Goes on until something has failed.
fn keep(so_far: &mut Result<(), Problem>, next: impl FnOnce() -> Result<(), Problem>) {
    if so_far.is_ok() {
        *so_far = next();
    }
}

/// Ends as the application did.
fn exit_as(status: ExitStatus) -> Result<(), Problem> {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => std::process::exit(code),
        (None, signal) => std::process::exit(128 + signal.unwrap_or(0)),
    }
}
