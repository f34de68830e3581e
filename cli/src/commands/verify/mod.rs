//! `bpftime verify`: what our verifier says of each program of an object,
//! beside the kernel's verdict if that is asked for. It knows no program's
//! meaning: libbpf loads, in a process whose bpf(2) our server or the kernel
//! answers.
//!
//! Reading order: [`verdict`] (what is told), [`side`] (asking one verifier),
//! [`child`] and `libbpf` (the process that loads), [`text`] (for people).

mod child;
mod libbpf;
mod side;
mod text;
mod verdict;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::session::Dirs;
use serde::Serialize;

use crate::elf_head::read_at;
use crate::libraries::{self, Library};
use crate::problem::Problem;
use side::{DEFAULT_TIMEOUT, Judged, Side};
use verdict::{Outcome, Program, Verdict};

pub use child::{Args as ChildArgs, run as run_child};

/// Say what the verifier thinks of a compiled eBPF object
///
/// Each program of the object is loaded alone and its verdict shown; for a
/// refused one also the log. Nothing is attached. Maps that their tool sizes
/// at run time get a size. Exit status 0 when all programs are accepted,
/// 1 when some are not, 2 when the object cannot be read.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The object, as clang -target bpf or bpftool gen object made it
    #[arg(value_name = "FILE.o")]
    file: PathBuf,
    /// What the log shows, as log_level of bpf(2): 0 nothing, 1 the way to
    /// the refusal, 2 every step, 4 statistics; may be added up. Without it,
    /// the last steps before a refusal
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=7))]
    log_level: Option<u32>,
    /// Load into the kernel as well and show where the verdicts differ
    #[arg(long, value_enum)]
    against: Option<Against>,
    /// Only the program of this name
    #[arg(long, value_name = "NAME")]
    program: Option<String>,
    /// Print JSON for other programs
    #[arg(long)]
    json: bool,
    /// Seconds that a program may take
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIMEOUT.as_secs(), hide = true)]
    timeout: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Against {
    /// The kernel of this machine
    Kernel,
}

const EXAMPLES: &str = "\
Examples:
  bpftime verify counter.bpf.o
  bpftime verify counter.bpf.o --program on_entry --log-level 2
  sudo bpftime verify counter.bpf.o --against kernel";

/// Exit status for an object that cannot be read, as clap's for a bad option.
const BAD_OBJECT: u8 = 2;

/// A program with both verdicts.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    program: Program,
    bpftime: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<Verdict>,
}

/// Prints the verdicts.
pub fn run(args: &Args) -> Result<(), Problem> {
    let bad = |happened: String, advice: &str| {
        Err(Problem::new(args.file.display(), happened, advice).with_status(BAD_OBJECT))
    };
    if let Err(why) = check_head(&args.file) {
        let advice = match args.file.exists() {
            true => "name an object that clang -target bpf made",
            false => "check the path",
        };
        return bad(why, advice);
    }
    if args.against.is_some() && !may_load_into_kernel() {
        return Err(Problem::new(
            "--against kernel",
            "loading into the kernel needs CAP_BPF and CAP_PERFMON",
            "run it as root",
        )
        .with_status(BAD_OBJECT));
    }
    let server = libraries::unpack(&Dirs::for_cli(), Library::SyscallServer)
        .map_err(|problem| problem.with_status(BAD_OBJECT))?;
    let mut side = Side {
        server: Some(server),
        log_level: args.log_level.unwrap_or(1),
        program: args.program.clone(),
        timeout: Duration::from_secs(args.timeout),
    };
    let ours = match side.judge(&args.file) {
        Ok(judged) => judged,
        Err(why) => return bad(why, "compile it again, with clang -target bpf -g"),
    };
    if ours.is_empty() {
        return match &args.program {
            Some(name) => bad(
                format!("no program {name} in it"),
                "leave --program out to see all",
            ),
            None => bad("no programs in it".into(), "mark functions with SEC(\"…\")"),
        };
    }
    side.server = None;
    let theirs = match args.against {
        Some(Against::Kernel) => match side.judge(&args.file) {
            Ok(judged) => judged,
            Err(why) => return bad(why, "see dmesg"),
        },
        None => Vec::new(),
    };
    show(args, &rows(ours, theirs))
}

fn rows(ours: Vec<Judged>, theirs: Vec<Judged>) -> Vec<Row> {
    let mut theirs = theirs.into_iter();
    let rows = ours.into_iter().map(|(program, bpftime)| Row {
        program,
        bpftime,
        kernel: theirs.next().map(|(_, verdict)| verdict),
    });
    rows.collect()
}

/// Lines of a log that are shown when nobody asked for a level.
const LAST_LINES: usize = 40;

fn show(args: &Args, rows: &[Row]) -> Result<(), Problem> {
    let text = if args.json {
        let mut json = serde_json::to_string_pretty(rows)
            .map_err(|error| Problem::new("verify", error, "report this as a bug"))?;
        json.push('\n');
        json
    } else {
        let last = args.log_level.is_none().then_some(LAST_LINES);
        text::render(rows, last)
    };
    super::print(&text)?;
    let accepted = |row: &&Row| row.bpftime.outcome == Outcome::Accepted;
    match (rows.iter().filter(accepted).count(), rows.len()) {
        (accepted, all) if accepted == all => Ok(()),
        (accepted, all) => Err(Problem::new(
            args.file.display(),
            format_args!("{} of {all} programs not accepted", all - accepted),
            "see the lines above",
        )),
    }
}

/// What libbpf says in many ways, in ours: why a file is no eBPF object.
fn check_head(path: &Path) -> Result<(), String> {
    const EM_BPF: u16 = 247;
    const HEADER: usize = 64;
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        _ => format!("cannot be read ({})", libraries::reason(&error)),
    };
    // Before it is opened: opening a pipe may wait for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("not a file".into());
    }
    let file = File::open(path).map_err(unreadable)?;
    let mut head = [0; HEADER];
    let length = read_at(&file, &mut head, 0).map_err(unreadable)?;
    if !head.starts_with(b"\x7fELF") {
        return Err("not an ELF file".into());
    }
    if length < HEADER {
        return Err("a damaged ELF file".into());
    }
    match u16::from_le_bytes([head[18], head[19]]) {
        EM_BPF => Ok(()),
        _ => Err("built for another processor than eBPF".into()),
    }
}

/// Whether this process has what the kernel asks of a loader of any type of
/// program that user space knows.
pub fn may_load_into_kernel() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_PERFMON: u64 = 1 << 38;
    const CAP_BPF: u64 = 1 << 39;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0);
    let has = |set: u64| effective & set == set;
    has(CAP_SYS_ADMIN) || has(CAP_BPF | CAP_PERFMON)
}
