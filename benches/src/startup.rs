//! Milliseconds that the agent adds to `/bin/true`, without any session and
//! with one whose probe lies in libc. It starts the program itself with the
//! environment that `bpftime start` gives, so the command's own time is apart.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use tests::World;

use crate::median;
use crate::report::Startup;

const ROUNDS: usize = 41;
const PROGRAM: &str = "/bin/true";
const LIBC: &str = "/lib/x86_64-linux-gnu/libc.so.6";

/// Runs `command` and returns milliseconds.
fn time(command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

/// The program as `bpftime start` would have it, without that command.
fn with_agent(world: &World) -> Command {
    let shown = world.run(&["start", "env"]).stdout;
    let mut command = world.plain(&[PROGRAM]);
    for (name, value) in shown.lines().filter_map(|line| line.split_once('=')) {
        command.env(name, value);
    }
    command
}

/// Medians of plain, agent, and the whole `bpftime start`, in turn.
fn round(world: &World) -> Result<[f64; 3]> {
    let mut commands = [
        world.plain(&[PROGRAM]),
        with_agent(world),
        world.bpftime(&["start", PROGRAM]),
    ];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (command, times) in commands.iter_mut().zip(&mut times) {
            times.push(time(command)?);
        }
    }
    Ok(times.map(median))
}

/// Measures the start of the agent.
pub fn measure(world: &World) -> Result<Startup> {
    let [plain, agent, start] = round(world)?;
    let tool = world.fixture_tool("counter", &["-m", "0"], Path::new(LIBC), "getpid");
    let [plain_with, agent_with, _] = round(world)?;
    ensure!(tool.finish().code == 0);
    Ok(Startup {
        plain_ms: plain,
        agent_ms: agent - plain,
        agent_with_session_ms: agent_with - plain_with,
        start_command_ms: start - plain,
    })
}
