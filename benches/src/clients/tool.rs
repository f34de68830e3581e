//! A running tool: on a terminal, so that it shows each line at once, and with
//! its output read and forgotten. It knows no particular tool.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A tool that does not get ready in this time is broken.
const LONGEST_START: Duration = Duration::from_secs(60);
const LONGEST_END: Duration = Duration::from_secs(20);
/// What is kept of the output, for messages.
const KEPT: usize = 4096;

/// A tool that has attached its programs.
pub struct Tool {
    child: Child,
    reader: JoinHandle<()>,
    /// Milliseconds until it was ready.
    pub ready_ms: f64,
}

impl Tool {
    /// Starts `command` and waits until it shows `mark`.
    pub fn start(mut command: Command, mark: &str) -> Result<Tool> {
        let terminal = openpty(None, None)?;
        let slave = |fd: &OwnedFd| fd.try_clone().map(Stdio::from);
        command
            .stdin(Stdio::null())
            .stdout(slave(&terminal.slave)?)
            .stderr(slave(&terminal.slave)?);
        let start = Instant::now();
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        // The command and the terminal hold the other side: while they do, the end is not seen.
        let shown = format!("{command:?}");
        drop((command, terminal.slave));
        let (sender, receiver) = mpsc::channel();
        let wanted = mark.to_owned();
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut master = File::from(terminal.master);
            let mut bytes = [0; 16384];
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                if text.len() < KEPT {
                    text.extend_from_slice(&bytes[..count]);
                    // Nobody may be there to hear it any more.
                    let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
                }
            }
        });
        let tool = Tool {
            child,
            reader,
            ready_ms: wait(&receiver, &wanted, start).context(shown)?,
        };
        Ok(tool)
    }

    /// Interrupts it, and kills it if it does not hear.
    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, Signal::SIGINT)?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > LONGEST_END {
                self.child.kill()?;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        ensure!(self.reader.join().is_ok(), "the reader");
        Ok(())
    }
}

/// Milliseconds until the text that comes has `mark` in it.
fn wait(receiver: &Receiver<String>, mark: &str, start: Instant) -> Result<f64> {
    let mut last = String::new();
    loop {
        match receiver.recv_timeout(LONGEST_START.saturating_sub(start.elapsed())) {
            Ok(text) if text.contains(mark) => return Ok(start.elapsed().as_secs_f64() * 1e3),
            Ok(text) => last = text,
            Err(RecvTimeoutError::Timeout) => bail!("it did not say {mark:?}:\n{last}"),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended:\n{last}"),
        }
    }
}
