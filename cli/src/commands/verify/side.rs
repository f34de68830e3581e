//! One of the two verifiers: starts the process that loads, reads what it
//! says, and outlives whatever becomes of it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use super::child::Message;
use super::verdict::{Outcome, Program, Verdict};

/// What a program may take before its verdict is a timeout.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Tells the server that it is asked for verdicts only.
const VERIFY_ONLY: &str = "BPFTIME_VERIFY_ONLY";

/// A verifier, and how to ask it.
pub struct Side {
    /// This library answers bpf(2); without one the kernel does.
    pub server: Option<PathBuf>,
    /// `log_level` of bpf(2).
    pub log_level: u32,
    /// Only programs of this name.
    pub program: Option<String>,
    /// What a program may take.
    pub timeout: Duration,
}

/// A program and what was said of it.
pub type Judged = (Program, Verdict);

impl Side {
    /// What the verifier says of each program of `file`, in the object's
    /// order. A child that dies or hangs costs the program it was at.
    ///
    /// # Errors
    /// Why the object cannot be opened.
    pub fn judge(&self, file: &Path) -> Result<Vec<Judged>, String> {
        let mut judged: Vec<Judged> = Vec::new();
        loop {
            let mut run = Run::start(self, file, judged.len())?;
            let programs = match run.next(self.timeout) {
                Said::Message(Message::Programs(programs)) => programs,
                Said::Message(Message::Unreadable(reason)) => return Err(reason),
                Said::Message(Message::Verdict(..)) | Said::Nothing => {
                    return Err("it takes too long to open".into());
                }
                Said::Ended(status) => return Err(format!("opening it ended with {status}")),
            };
            while judged.len() < programs.len() {
                let mut program = programs[judged.len()].clone();
                let (verdict, goes_on) = match run.next(self.timeout) {
                    Said::Message(Message::Verdict(verdict, insns)) => {
                        program.insns = insns.max(program.insns);
                        (verdict, true)
                    }
                    Said::Message(_) | Said::Nothing => (timed_out(self.timeout), false),
                    Said::Ended(status) => (crashed(status), false),
                };
                judged.push((program, verdict));
                if !goes_on {
                    break;
                }
            }
            if judged.len() >= programs.len() {
                return Ok(judged);
            }
        }
    }
}

fn timed_out(timeout: Duration) -> Verdict {
    Verdict::without(
        Outcome::Timeout,
        format!("no verdict in {} s", timeout.as_secs()),
    )
}

fn crashed(status: ExitStatus) -> Verdict {
    let how = match status.signal() {
        Some(signal) => nix::sys::signal::Signal::try_from(signal)
            .map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned()),
        None => status.to_string(),
    };
    Verdict::without(Outcome::Crashed, format!("the process died of {how}"))
}

/// A child at work.
struct Run {
    child: Child,
    lines: Receiver<String>,
}

enum Said {
    Message(Message),
    /// Nothing in time.
    Nothing,
    Ended(ExitStatus),
}

impl Run {
    fn start(side: &Side, file: &Path, first: usize) -> Result<Run, String> {
        let failed = |error: std::io::Error| format!("cannot start a process for it ({error})");
        // The running program, even when its file was replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("bpftime")
            .args(["verify-child", "--log-level"]);
        command.arg(side.log_level.to_string());
        command.args(["--first", &first.to_string()]);
        if let Some(name) = &side.program {
            command.arg(format!("--program={name}"));
        }
        command.arg("--").arg(file);
        command.env_remove("LD_PRELOAD");
        if let Some(server) = &side.server {
            command.env("LD_PRELOAD", server).env(VERIFY_ONLY, "1");
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let (sender, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Run { child, lines })
    }

    fn next(&mut self, timeout: Duration) -> Said {
        match self.lines.recv_timeout(timeout) {
            Ok(line) => serde_json::from_str(&line).map_or(Said::Nothing, Said::Message),
            Err(RecvTimeoutError::Timeout) => Said::Nothing,
            Err(RecvTimeoutError::Disconnected) => {
                self.child.wait().map_or(Said::Nothing, Said::Ended)
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
