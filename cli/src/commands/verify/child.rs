//! The process that loads: an object's programs, one after the other, each
//! alone, and says on stdout what came of it. It does not know whose bpf(2)
//! it calls; whoever starts it preloads our server or does not.

use std::io::Write;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, setrlimit};
use serde::{Deserialize, Serialize};
use uapi::cmd::{BPF_LOG_LEVEL1 as LEVEL1, BPF_LOG_LEVEL2 as LEVEL2, BPF_LOG_STATS as STATS};

use super::libbpf::{Object, keep_warnings, take_warnings};
use super::verdict::{Outcome, Program, Verdict};
use crate::problem::Problem;

/// Load the programs of an object for `bpftime verify`
#[derive(clap::Args)]
pub struct Args {
    /// The object
    file: PathBuf,
    /// `log_level` of bpf(2)
    #[arg(long)]
    log_level: u32,
    /// Number of the first program
    #[arg(long)]
    first: usize,
    /// Only programs of this name
    #[arg(long)]
    program: Option<String>,
}

/// A line on the child's stdout.
#[derive(Serialize, Deserialize)]
pub enum Message {
    /// The programs of the object; verdicts follow in this order, from the
    /// first one that was asked for.
    Programs(Vec<Program>),
    /// What came of a program, and its instructions.
    Verdict(Verdict, usize),
    /// libbpf cannot open the object.
    Unreadable(String),
}

/// Most bytes of a log. Pages cost when they are written.
const LOG_BYTES: usize = 64 << 20;
/// Most memory of the process's own; what is only reserved, such as an
/// arena's addresses, does not count.
const MEMORY: u64 = 2 << 30;

/// Loads what the arguments say.
pub fn run(args: &Args) -> Result<(), Problem> {
    // Nobody waits for a verdict when `bpftime verify` was killed.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    // Refused only where the limits are lower already.
    let _ = setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY);
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    keep_warnings();
    let programs = match Object::open(&args.file) {
        Ok(object) => object.programs(),
        Err(errno) => {
            let warning = take_warnings().pop();
            return say(&Message::Unreadable(warning.unwrap_or_else(|| {
                nix::errno::Errno::from_raw(errno).desc().to_owned()
            })));
        }
    };
    let wanted = |program: &Program| {
        args.program
            .as_ref()
            .is_none_or(|name| *name == program.name)
    };
    let chosen: Vec<(usize, String)> = programs
        .iter()
        .enumerate()
        .filter(|(_, program)| wanted(program))
        .map(|(number, program)| (number, program.name.clone()))
        .collect();
    say(&Message::Programs(
        programs.into_iter().filter(wanted).collect(),
    ))?;
    let mut log = vec![0; LOG_BYTES];
    for (number, name) in chosen.into_iter().skip(args.first) {
        let (verdict, insns) = judge(&args.file, number, &name, args.log_level, &mut log);
        say(&Message::Verdict(verdict, insns))?;
    }
    Ok(())
}

/// Loads a program without the work that a log is, and again when a log is
/// wanted that shows more than the reason.
fn judge(
    file: &Path,
    number: usize,
    name: &str,
    log_level: u32,
    log: &mut [u8],
) -> (Verdict, usize) {
    let (errno, insns, text) = load(file, number, STATS, log);
    let mut verdict = Verdict::of(name, errno, &take_warnings(), &text);
    // Level 1 has nothing to show of an accepted program.
    let levels = match verdict.outcome {
        Outcome::Refused => LEVEL1 | LEVEL2,
        Outcome::Accepted => LEVEL2,
        _ => 0,
    };
    if log_level & levels != 0 {
        verdict.log = load(file, number, log_level, log).2;
    } else if log_level & STATS != 0 {
        verdict.log = text;
    }
    take_warnings();
    (verdict, insns)
}

fn load(file: &Path, number: usize, log_level: u32, log: &mut [u8]) -> (i32, usize, String) {
    if let Some(first) = log.first_mut() {
        *first = 0;
    }
    let (errno, insns) = match Object::open(file) {
        Ok(object) => object.load(number, log_level, log),
        Err(errno) => (errno, 0),
    };
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&log[..end]).into_owned();
    (errno, insns, text)
}

fn say(message: &Message) -> Result<(), Problem> {
    let failed = |error: std::io::Error| {
        Problem::new(
            "verify",
            format_args!("cannot tell the result ({error})"),
            "use bpftime verify",
        )
    };
    let mut line = serde_json::to_vec(message).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&line)
        .and_then(|()| stdout.flush())
        .map_err(failed)
}
