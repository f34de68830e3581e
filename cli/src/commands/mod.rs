//! The subcommands, one file each. To add one: a file with an `Args` and a
//! `run`, and a row in [`Command`] and in [`run`]. [`line`] reads the command line.

mod attach;
mod build;
mod chosen;
mod detach;
mod doctor;
mod exec;
mod fetching;
mod generate;
mod json;
mod line;
mod link;
mod load;
mod login;
mod map;
mod new;
mod pin;
mod prog;
mod pull;
mod push;
mod run;
mod serve;
mod start;
mod status;
mod verify;
mod vm;

use std::io::Write;

use clap::{Parser, Subcommand};

use crate::problem::Problem;

pub use line::read;

/// Trace programs with unmodified eBPF tools, in user space and without root.
#[derive(Parser)]
#[command(name = "bpftime", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  bpftime load bashreadline            run an eBPF tool
  bpftime run counter.bpf.o -- ./app   run an eBPF object, without a tool
  bpftime start bash                   run a program that tools can trace
  bpftime attach $(pidof myserver)     let tools trace running processes
  bpftime status                       what runs where
  bpftime map dump counts              what a tool's map holds
  bpftime exec bpftool prog list       any command, with tools and pins in sight
  bpftime build tool.bpf.c tool.h      an object and a package from C
  bpftime verify counter.bpf.o         what the verifier thinks of programs
  bpftime serve                        programs by HTTP, with metrics
  bpftime doctor                       what this machine and user can do

The order does not matter: load first or start first.
BPFTIME_LOG=debug shows more.";

/// What the user asks for.
#[derive(Subcommand)]
pub enum Command {
    Load(load::Args),
    Exec(exec::Args),
    Start(start::Args),
    Attach(attach::Args),
    Detach(detach::Args),
    Status(status::Args),
    Map(map::Args),
    Prog(prog::Args),
    Link(link::Args),
    Doctor(doctor::Args),
    Run(run::Args),
    #[command(name = "gen")]
    Generate(generate::Args),
    Push(push::Args),
    Pull(pull::Args),
    Login(login::Args),
    Logout(login::LogoutArgs),
    Build(build::Args),
    New(new::Args),
    #[command(hide = true)]
    RunHere(run::Args),
    Serve(serve::Args),
    Verify(verify::Args),
    #[command(hide = true)]
    VerifyChild(verify::ChildArgs),
    Vm(vm::Args),
}

/// Writes a command's result to stdout.
fn print(text: &str) -> Result<(), Problem> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| {
            Problem::new(
                "stdout",
                format_args!("cannot be written ({})", crate::libraries::reason(&error)),
                "check where the output goes",
            )
        })
}

/// Runs the subcommand. `Ok` means exit status 0.
pub fn run(command: Command) -> Result<(), Problem> {
    match command {
        Command::Load(args) => load::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Start(args) => start::run(args),
        Command::Attach(args) => attach::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Status(args) => status::run(args),
        Command::Map(args) => map::run(args),
        Command::Link(args) => link::run(&args),
        Command::Prog(args) => prog::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Run(args) => run::run(args),
        Command::Generate(args) => generate::run(&args),
        Command::Push(args) => push::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Login(args) => login::run(args),
        Command::Logout(args) => login::logout(args),
        Command::RunHere(args) => run::run_here(&args),
        Command::Build(args) => build::run(&args),
        Command::New(args) => new::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::VerifyChild(args) => verify::run_child(&args),
        Command::Vm(args) => vm::run(args),
    }
}
