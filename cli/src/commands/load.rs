//! `bpftime load`: runs an eBPF tool with bpf(2) answered in user space.

use std::ffi::OsString;

use crate::launch::Program;
use crate::problem::Problem;
use runtime::session::Dirs;

/// Run an eBPF tool; its programs run in user space
///
/// The tool is not modified and needs neither root nor kernel BPF. Its probes
/// reach programs run by `bpftime start` or joined by `bpftime attach`, before
/// or after, and by themselves the commands that the tool starts (-c) and the
/// processes of yours that it names (-p PID, --pid PID), which are attached to as
/// by `bpftime attach`. When the tool ends, however it ends, its probes are gone.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where the tool's programs run: what user space can host there and the
    /// rest in the kernel, if you may load programs there; all in user space;
    /// or all in the kernel
    #[arg(long, value_enum, value_name = "WHERE", default_value_t = Runtime::Auto)]
    runtime: Runtime,

    /// Answer the tool's system calls from outside, as is done for statically
    /// linked tools: for tools that make them by instructions of their own
    #[arg(long)]
    supervise: bool,

    /// The tool and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// Where programs run.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    Auto,
    User,
    Kernel,
}

const EXAMPLES: &str = "\
Examples:
  bpftime load bashreadline
  bpftime load funclatency -p 1234 c:malloc
  bpftime load bpftrace -e 'uprobe:./app:work { @[tid] = count(); }'";

/// Becomes the tool.
pub fn run(args: Args) -> Result<(), Problem> {
    let program = Program::find(&args.command)?;
    let program = match args.runtime {
        Runtime::Auto => program.with_variable("BPFTIME_RUNTIME", "auto")?,
        Runtime::User => program.with_variable("BPFTIME_RUNTIME", "user")?,
        Runtime::Kernel => return program.exec_plain().map(|never| match never {}),
    };
    let dirs = Dirs::for_cli();
    let done = program.exec_tool(&dirs, args.supervise);
    done.map(|never| match never {})
}
