//! A Wasm module's story: the words behind its file are its own.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime::session::Dirs;
use runtime::session::dirs::STATE_VARIABLE;
use wasm::{Directory, Error, Limits, Module, Reason, Wishes};

use super::here::Asked;
use super::process::Process;
use super::watch::{self, TIMED_OUT};
use crate::problem::{CANNOT_RUN, Problem};

/// Exit status of what aborted, as shells show it.
const ABORTED: u8 = 128 + libc::SIGABRT as u8;

/// What only modules have.
#[derive(clap::Args)]
pub struct Options {
    /// Let a Wasm module use a directory, under its own name or another; `ro`
    /// keeps it from changing anything there
    #[arg(long, value_name = "HOST[::GUEST[::ro]]", value_parser = directory)]
    dir: Vec<Directory>,

    /// Give a Wasm module a variable of the environment: yours, or this one
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<(String, String)>,

    /// End a Wasm module after so many seconds, with status 124
    #[arg(long, value_name = "SECONDS", value_parser = super::seconds)]
    timeout: Option<Duration>,

    /// Memory that a Wasm module may have
    #[arg(long, value_name = "MIB", default_value_t = 512,
        value_parser = clap::value_parser!(u64).range(1..=4096))]
    max_memory: u64,

    /// The module of imports from which TinyGo's modules poll
    #[arg(long, value_name = "NAME", default_value = "callback-wrapper")]
    wrapper_module_name: String,

    /// The function to which TinyGo's modules get their records
    #[arg(long, value_name = "NAME", default_value = "go-callback")]
    callback_export_name: String,
}

pub fn run(asked: &Asked<'_>, bytes: &[u8]) -> Result<(), Problem> {
    let options = &asked.args.module;
    if let Some(name) = asked.args.without.first() {
        let who = format!("--without {name}");
        let advice = "a module says itself what it loads";
        return Err(Problem::new(who, "is for objects", advice).with_status(2));
    }
    let stop = Arc::default();
    let line = format!("bpftime: {}", took_too_long(asked));
    let traced = Process::of(asked.args.pid)?.map(Arc::new);
    watch::watch(&stop, options.timeout, line);
    if let Some(process) = &traced {
        watch::follow(&stop, process);
    }
    let words = std::iter::once(asked.file.as_os_str());
    let words = words.chain(asked.behind.iter().map(OsString::as_os_str));
    let module = Module {
        bytes,
        arguments: words.map(|word| word.as_bytes().to_vec()).collect(),
        environment: options.env.clone(),
        directories: options.dir.clone(),
        callback_module: &options.wrapper_module_name,
        callback_export: &options.callback_export_name,
        limits: Limits {
            memory: usize::try_from(options.max_memory << 20).unwrap_or(usize::MAX),
            ..Limits::default()
        },
        cache: Some(cache()),
        wishes: wishes(asked)?,
    };
    match wasm::run(&module, &stop) {
        Ok(0) => Ok(()),
        Ok(status) => std::process::exit(status),
        Err(Error::Stopped(Reason::Signal(number))) => watch::die(number),
        Err(Error::Stopped(Reason::Timeout)) => Err(took_too_long(asked)),
        Err(Error::Stopped(Reason::Gone)) => {
            traced.iter().for_each(|process| process.tell());
            Ok(())
        }
        Err(error) => Err(problem(asked, &error)),
    }
}

/// Where compiled modules are kept: beside what else is kept for this user, who
/// may have moved that (`XDG_CACHE_HOME`).
fn cache() -> PathBuf {
    let moved = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let state = std::env::var_os(STATE_VARIABLE);
    match (state, moved) {
        (None, Some(moved)) if moved.is_absolute() => moved.join("bpftime/wasm"),
        _ => Dirs::for_cli().state.join("wasm"),
    }
}

fn directory(words: &str) -> Result<Directory, String> {
    let (words, read_only) = match words.split("::").collect::<Vec<_>>()[..] {
        [host] => ([host, host], false),
        [host, guest] => ([host, guest], false),
        [host, guest, "ro"] => ([host, guest], true),
        _ => return Err("write HOST, HOST::GUEST or HOST::GUEST::ro".to_owned()),
    };
    let [host, guest] = words;
    Ok(Directory {
        host: PathBuf::from(host),
        guest: guest.to_owned(),
        read_only,
    })
}

fn variable(words: &str) -> Result<(String, String), String> {
    let (name, value) = match words.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => match std::env::var(words) {
            Ok(value) => (words, value),
            Err(error) => return Err(format!("{error}; write NAME=VALUE")),
        },
    };
    Ok((name.to_owned(), value))
}

fn wishes(asked: &Asked<'_>) -> Result<Wishes, Problem> {
    let target = |words: &String| {
        let Some((name, target)) = words.split_once('=') else {
            return Err(Problem::new(
                format_args!("--attach {words}"),
                "names no program",
                "write PROGRAM=TARGET",
            ));
        };
        Ok((name.to_owned(), target.to_owned()))
    };
    Ok(Wishes {
        pid: asked.args.pid,
        targets: asked
            .args
            .attach
            .iter()
            .map(target)
            .collect::<Result<_, _>>()?,
        btf: super::object::kernel_types(asked)?,
    })
}

fn took_too_long(asked: &Asked<'_>) -> Problem {
    let seconds = asked.args.module.timeout.unwrap_or_default();
    Problem::new(
        asked.file.display(),
        format_args!("was ended after {} seconds", seconds.as_secs_f64()),
        "give it more by --timeout",
    )
    .with_status(TIMED_OUT)
}

fn problem(asked: &Asked<'_>, error: &Error) -> Problem {
    let (advice, status) = match error {
        Error::NotAModule(_) => (
            "compile it again: the file is damaged or made for something else",
            CANNOT_RUN,
        ),
        Error::TooLarge => ("strip it, or load its data by --dir", CANNOT_RUN),
        Error::Component => ("build it for wasm32-wasip1", CANNOT_RUN),
        Error::ImportType { .. } | Error::Import { .. } => (
            "see docs/support.md for what modules may import",
            CANNOT_RUN,
        ),
        Error::NoMemory => ("link it with --export-memory", CANNOT_RUN),
        Error::NoStart => ("build it as a command, not as a library", CANNOT_RUN),
        Error::Directory { .. } => ("check --dir", CANNOT_RUN),
        Error::Start(_) => ("see bpftime run --help for its limits", CANNOT_RUN),
        Error::Trap(_) => ("it is the module's own fault; ask who made it", ABORTED),
        Error::Stopped(_) | Error::Host(_) => ("report it, please", CANNOT_RUN),
    };
    Problem::new(asked.file.display(), error, advice).with_status(status)
}
