//! `bpftime run`: runs an object of eBPF programs, without a tool around it.
//!
//! Reading order: this file (the command line; the command becomes itself with
//! the syscall server preloaded, as any tool does), `source` and `file` (from
//! words to bytes), `here` (what then happens), `whole` (maps that only the kernel has), `object`, `explain` (where programs would run), `settings` (global variables as options), `output` and `report` (records and
//! maps in words), `stop` (signals), `process` (the end of that of `--pid`), `wasm` (modules), `watch` (their end).

mod explain;
mod file;
mod here;
mod object;
mod output;
mod package;
mod process;
mod report;
mod settings;
mod source;
mod stop;
mod wasm;
mod watch;
mod whole;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::load::Runtime;
use crate::launch::Program;
use crate::libraries::{self, Library};
use crate::problem::Problem;
use crate::sessions_dir;
use runtime::session::Dirs;

/// Run eBPF programs of an object, a package or a Wasm module; print what they report
///
/// What to run is a file, a URL, a reference into a registry, or `-` for stdin.
/// Every program is attached where its section says, its ring buffers and perf
/// buffers are printed by the object's types, and its maps when it ends: with
/// the application, or by Ctrl-C. Global variables are options behind the
/// file: `bpftime run FILE --help` lists them.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where programs run: what user space can host there and the rest in the
    /// kernel, if you may load programs there; all in user space; or all in
    /// the kernel
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Runtime::Auto)]
    runtime: Runtime,

    /// Trace this process until it ends: let it be traced as `bpftime attach`
    /// does, and put user-space probes on it only
    #[arg(long, short, value_name = "PID")]
    pid: Option<i32>,

    /// Put a program somewhere else than its section says, or nowhere (`off`)
    #[arg(long, value_name = "PROGRAM=TARGET")]
    attach: Vec<String>,

    /// Leave a program out: it is neither loaded nor attached
    #[arg(long, value_name = "PROGRAM")]
    without: Vec<String>,

    /// Say where each program would run, and why; run nothing
    #[arg(long)]
    explain: bool,

    /// Say what libbpf and the verifier say, too
    #[arg(long, short)]
    verbose: bool,

    /// Print JSON, one object a line
    #[arg(long, short)]
    json: bool,

    /// The structure that records are of, if its name does not end in `event`
    #[arg(long, value_name = "STRUCT")]
    r#type: Option<String>,

    /// Print maps not only at the end but every so many seconds
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds)]
    interval: Option<Duration>,

    /// Types of the kernel to relocate against, in place of the running one's
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,

    #[command(flatten)]
    module: wasm::Options,

    #[command(flatten)]
    source: source::Options,

    /// What to run, options for its global variables, and behind `--` an
    /// application to trace
    #[arg(
        value_name = "SOURCE",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  bpftime run ghcr.io/me/opensnoop:1 --key me.pub
  bpftime run counter.bpf.o --pid 4711
  bpftime run opensnoop.bpf.o --targ_pid 4711 --json
  bpftime run uprobe.bpf.o --attach 'on_malloc=libc.so.6:malloc' -- ./app --port 8080
  bpftime run profile.bpf.o --attach do_sample=cpu-clock@49 --interval 5";

/// Maps are not printed more often than that.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// The hidden subcommand that this one becomes.
const HERE: &str = "run-here";

/// Becomes this command with the syscall server in it.
pub fn run(mut args: Args) -> Result<(), Problem> {
    if args.runtime == Runtime::Auto
        && !args.explain
        && let Some(why) = whole::why(&args)
    {
        if args.verbose {
            // Nobody is left to tell if stderr is gone.
            let _ = writeln!(
                std::io::stderr(),
                "bpftime: all of it runs in the kernel: {why}"
            );
        }
        args.runtime = Runtime::Kernel;
    }
    let args = &args;
    let runtime = match args.runtime {
        // What user space refuses is asked, and nothing of the kernel.
        Runtime::Auto if args.explain => "user",
        Runtime::Auto => "auto",
        Runtime::User => "user",
        Runtime::Kernel => return here::run(args),
    };
    if let Some(pid) = args.pid.filter(|_| !args.explain) {
        super::attach::let_trace(pid)?;
    }
    let mut command = vec![own_path()?, OsString::from(HERE)];
    command.extend(source::carry(args)?);
    // Before the subcommand there are no options.
    command.extend(std::env::args_os().skip(2));
    let program = Program::find(&command)?.with_variable("BPFTIME_RUNTIME", runtime)?;
    let dirs = Dirs::for_cli();
    let library = libraries::unpack(&dirs, Library::SyscallServer)?;
    sessions_dir::check(&dirs.sessions)?;
    program.exec(&library).map(|never| match never {})
}

/// Does the work, in a process in which bpf(2) is answered.
pub fn run_here(args: &Args) -> Result<(), Problem> {
    here::run(args)
}

/// A time to wait, in seconds.
pub fn seconds(words: &str) -> Result<Duration, String> {
    let time = words.parse().ok().map(Duration::try_from_secs_f64);
    match time {
        Some(Ok(time)) if time >= SHORTEST_INTERVAL => Ok(time),
        _ => Err("a number of seconds is wanted, at least 0.01".to_owned()),
    }
}

pub fn own_path() -> Result<OsString, Problem> {
    let path = std::env::current_exe();
    path.map(PathBuf::into_os_string).map_err(|error| {
        Problem::new(
            "/proc/self/exe",
            format_args!("cannot be read ({})", libraries::reason(&error)),
            "mount /proc",
        )
    })
}
