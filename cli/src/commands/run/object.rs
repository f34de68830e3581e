//! An object's story: opened, set, loaded, attached, followed, ended.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use loader::open::ProgramInfo;
use loader::target::{self, Target};
use loader::{Buffers, Cause, Loaded, Opened, Options};
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};
use object::btf::{Btf, Shape};

use super::here::{Asked, object_name};
use super::output::{Occasion, Output};
use super::process::Process;
use super::report::Report;
use super::{explain, file, settings, stop, whole};
use crate::children;
use crate::libraries::reason;
use crate::problem::{CANNOT_RUN, NOT_FOUND, Problem};

/// How types begin (`BTF_MAGIC`, include/uapi/linux/btf.h).
const BTF_MAGIC: [u8; 2] = 0xeb9f_u16.to_le_bytes();

/// How often an application or a traced process is looked after while nothing
/// is reported.
const LOOK: Duration = Duration::from_millis(50);

pub fn run(asked: &Asked<'_>, bytes: &[u8]) -> Result<(), Problem> {
    let options = options(asked)?;
    let traced = Process::of(asked.args.pid)?;
    let mut opened = Opened::read(bytes, &options).map_err(problem)?;
    if opened.programs().is_empty() {
        let advice = "write a function with SEC(\"uprobe\") or the like";
        return Err(Problem::new(options.name, "has no programs", advice));
    }
    let btf = opened.types().map_err(problem)?;
    whole::check(asked, &opened)?;
    check_type(asked, btf.as_ref())?;
    settings::apply(asked, &mut opened, btf.as_ref())?;
    leave_out(asked, &mut opened)?;
    let mut loaded = opened.load().map_err(problem)?;
    // A perf buffer that is not open yet loses what is reported.
    let buffers = loaded.buffers().map_err(problem)?;
    attach_all(asked, &mut loaded, |_| Target::Section)?;
    let mut report = Report::new(asked.args, &loaded, btf);
    stop::listen();
    follow(asked, &loaded, buffers, &mut report, start(asked)?, traced)
}

/// How an object is opened.
pub(super) fn options(asked: &Asked<'_>) -> Result<Options, Problem> {
    Ok(Options {
        name: object_name(asked.file),
        btf: kernel_types(asked)?,
    })
}

/// Whose types of the kernel objects are fitted to: those of `--btf`, or of the
/// variable that other loaders know; for none, the running kernel's.
pub(super) fn kernel_types(asked: &Asked<'_>) -> Result<Option<PathBuf>, Problem> {
    let variable = std::env::var_os("BTF_FILE_PATH").filter(|path| !path.is_empty());
    let given = asked.args.btf.clone().or(variable.map(PathBuf::from));
    if let Some(path) = &given {
        let bytes = file::read(path)?;
        // Those of a kernel may also be a section of its file.
        if !bytes.starts_with(&BTF_MAGIC) && !bytes.starts_with(b"\x7fELF") {
            let advice = "name a copy of some /sys/kernel/btf/vmlinux";
            return Err(Problem::new(path.display(), "has no types (BTF)", advice));
        }
    }
    Ok(given)
}

/// The structure that records are of, if the user names one, must be there.
fn check_type(asked: &Asked<'_>, btf: Option<&Btf>) -> Result<(), Problem> {
    let Some(name) = &asked.args.r#type else {
        return Ok(());
    };
    let known = |btf: &Btf| {
        (1..=btf.count())
            .any(|id| btf.name(id) == name && matches!(btf.resolved(id).1, Shape::Struct { .. }))
    };
    if btf.is_some_and(known) {
        return Ok(());
    }
    let advice = "name a structure of the object, without the word struct";
    let problem = Problem::new(
        format_args!("--type {name}"),
        "names no structure of the object",
        advice,
    );
    Err(problem.with_status(2))
}

/// A failure in a user's words; `--verbose` has all of libbpf's.
pub(super) fn problem(error: loader::Error) -> Problem {
    let advice = match error.cause {
        Cause::KernelOnly => kernel_only(&error.who),
        Cause::NoRight if geteuid().is_root() => {
            "what confines this process does not allow it, though it is root's".to_owned()
        }
        Cause::NoRight => "run it as root, or without --runtime kernel".to_owned(),
        Cause::Form => "run its own tool by bpftime load".to_owned(),
        Cause::Kernel => format!("leave it out by --without {}", error.who),
        Cause::Verifier => "--verbose shows the verifier's log".to_owned(),
        Cause::NoTypes => "name a file with the kernel's types by --btf FILE".to_owned(),
        Cause::File => "compile it with clang -O2 -g -target bpf -c".to_owned(),
        Cause::Target => format!("--attach {0}=TARGET, or {0}=off", error.who),
        Cause::Elsewhere => format!(
            "leave it out by --without {0}, or load it only by --attach {0}=off",
            error.who
        ),
        Cause::Section => format!(
            "--without {}, or spell the section as libbpf does",
            error.who
        ),
        Cause::NotThere => "--verbose shows what libbpf says".to_owned(),
        Cause::System => match error.errno {
            libc::EPERM | libc::EACCES => "see bpftime doctor for what you may do".to_owned(),
            libc::E2BIG | libc::ENOMEM => "give it fewer max_entries".to_owned(),
            _ => "--verbose shows what libbpf says".to_owned(),
        },
    };
    Problem::new(&error.who, error.happened(), advice)
}

/// What to do about a program that only the kernel hosts.
pub fn kernel_only(program: &str) -> String {
    format!("run it as root, or leave it out by --without {program}")
}

pub(super) fn leave_out(asked: &Asked<'_>, opened: &mut Opened) -> Result<(), Problem> {
    let programs = opened.programs();
    for name in &asked.args.without {
        if !programs.iter().any(|program| program.name == *name) {
            return Err(unknown(format_args!("--without {name}"), &programs));
        }
        opened.leave_out(name);
    }
    Ok(())
}

/// A program is named that the object does not have.
fn unknown(who: impl std::fmt::Display, programs: &[ProgramInfo]) -> Problem {
    let names: Vec<&str> = programs.iter().map(|program| &*program.name).collect();
    let advice = format!("its programs are {}", names.join(", "));
    Problem::new(who, "names no program of the object", advice)
}

/// Where the user wants programs, by their names.
pub fn targets(
    asked: &Asked<'_>,
    programs: &[ProgramInfo],
) -> Result<HashMap<String, Target>, Problem> {
    let one = |words: &String| {
        let known = words
            .split_once('=')
            .filter(|(name, _)| programs.iter().any(|program| program.name == *name));
        match known {
            Some((name, target)) => Ok((name.to_owned(), Target::from(target))),
            None => Err(unknown(format_args!("--attach {words}"), programs)),
        }
    };
    asked.args.attach.iter().map(one).collect()
}

/// Puts programs where the user wants them, and others where `usual` does.
pub(super) fn attach_all(
    asked: &Asked<'_>,
    loaded: &mut Loaded,
    usual: impl Fn(&ProgramInfo) -> Target,
) -> Result<(), Problem> {
    let programs = loaded.programs();
    let mut targets = targets(asked, &programs)?;
    for program in &programs {
        let target = targets.remove(&program.name);
        let target = target.unwrap_or_else(|| usual(program));
        if let Ok(place) = target::place(&program.section, program.kind, &target) {
            explain::check(asked.args.runtime, program, &place)?;
        }
        loaded
            .attach(&program.name, &target, asked.args.pid)
            .map_err(problem)?;
    }
    loaded
        .attach_operations(&asked.args.without)
        .map_err(problem)
}

/// Starts the application, which has the agent in it by what the session left
/// in our environment.
pub(super) fn start(asked: &Asked<'_>) -> Result<Option<Child>, Problem> {
    let Some((name, args)) = asked.app().split_first() else {
        return Ok(None);
    };
    let child = children::spawn(Command::new(name).args(args)).map_err(|error| {
        let status = match error.kind() {
            io::ErrorKind::NotFound => NOT_FOUND,
            _ => CANNOT_RUN,
        };
        Problem::new(
            name.to_string_lossy(),
            format_args!("cannot be started ({})", reason(&error)),
            "check the path",
        )
        .with_status(status)
    })?;
    Ok(Some(child))
}

/// Prints what comes until the user, the application or the traced process ends
/// it. An application is told of what the user asks, and waited for, unless the
/// user asks again.
pub(super) fn follow(
    asked: &Asked<'_>,
    loaded: &Loaded,
    mut buffers: Buffers,
    output: &mut impl Output,
    mut app: Option<Child>,
    traced: Option<Process>,
) -> Result<(), Problem> {
    // An application is what ends it, if there is one.
    let traced = traced.filter(|_| app.is_none());
    let lives = app.is_some() || traced.is_some();
    let is_done = loaded.only_lists() && app.is_none() && asked.args.interval.is_none();
    if !is_done {
        output.begin()?;
    }
    output.lists(loaded)?;
    let status = loop {
        if is_done {
            break None;
        }
        let ended = match &mut app {
            Some(child) => child.try_wait().map_err(|error| forgotten(child, &error))?,
            None => None,
        };
        let gone = traced.as_ref().filter(|process| process.has_ended());
        if let Some(process) = gone {
            process.tell();
            break None;
        }
        if ended.is_none() {
            print(&mut buffers, output, wait(output.due(), lives))?;
        }
        let enough = if app.is_some() { 2 } else { 1 };
        if ended.is_some() || stop::requests() >= enough {
            break ended;
        }
        if let (Some(child), Some(signal)) = (&app, stop::to_pass_on()) {
            // It is our child and was not waited for, so the id is its.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        }
        if output.due().is_some_and(|due| Instant::now() >= due) {
            output.lists(loaded)?;
            output.maps(loaded, Occasion::Due)?;
        }
    };
    // What was reported before it ended is all there.
    print_rest(&mut buffers, output)?;
    output.maps(loaded, Occasion::End)?;
    match (status, app) {
        (Some(status), _) => exit_as(status),
        // It goes on, and nobody knows how it will end.
        (None, Some(_)) => std::process::exit(128 + libc::SIGINT),
        (None, None) => Ok(()),
    }
}

/// Nobody will learn how the application ends.
fn forgotten(app: &Child, error: &io::Error) -> Problem {
    let happened = format_args!("cannot be waited for ({})", reason(error)).to_string();
    let advice = "start it by itself, and trace it by --pid";
    Problem::new(format_args!("process {}", app.id()), happened, advice)
}

/// How long records are waited for; `lives`: somebody may end meanwhile.
fn wait(next: Option<Instant>, lives: bool) -> Duration {
    let due = next.map(|due| due.saturating_duration_since(Instant::now()));
    let most = if lives { LOOK } else { Duration::from_secs(1) };
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
