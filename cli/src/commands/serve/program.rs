//! One program: a child process `bpftime run …`, what it prints, and how it
//! ends. It knows no eBPF and no HTTP.
//!
//! Signals to pause go to the tool alone: an application that it started is a
//! target and goes on. It is the leader of a process group, which ends with it.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde::Serialize;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::answer::Refusal;
use super::guardian::Guardian;
use super::log::{Log, Stream, now};
use super::metrics::Metrics;
use super::reader;
use super::request::{Request, Restart};

/// The first wait before a program is started again; the next are twice as long each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest one. A program that ran for so long begins with the first again.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// Time to read what is in the pipes when the program has ended.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Running,
    Paused,
    Stopping,
    /// Will be started again.
    Waiting,
    Ended,
}

impl State {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused => "paused",
            State::Stopping => "stopping",
            State::Waiting => "waiting",
            State::Ended => "ended",
        }
    }
}

/// A program and all that is kept of it.
pub struct Program {
    pub id: u64,
    pub name: String,
    pub request: Request,
    /// What `bpftime run` is told to run.
    pub source: PathBuf,
    /// Changes when there is something new to see.
    pub changed: watch::Sender<()>,
    inner: Mutex<Inner>,
}

/// What changes.
pub struct Inner {
    pub state: State,
    pub pid: Option<i32>,
    pub log: Log,
    pub metrics: Metrics,
    pub started: u64,
    /// The same for what is running now, if it has been started again.
    pub begun: u64,
    pub ended: Option<u64>,
    pub exit: Option<ExitStatus>,
    pub restarts: u64,
    /// Records that the program said were lost.
    pub lost: u64,
    /// Whether it shall not be started again.
    stopped: bool,
}

/// What all programs share.
pub struct Surroundings {
    pub bpftime: PathBuf,
    pub guardian: Mutex<Guardian>,
    /// Between asking a program to end and killing it.
    pub grace: Duration,
}

impl Program {
    /// A program that is about to be started.
    pub fn new(
        id: u64,
        name: String,
        request: Request,
        source: PathBuf,
        metrics: Metrics,
        log_bytes: usize,
    ) -> Program {
        let started = now();
        Program {
            id,
            name,
            request,
            source,
            changed: watch::channel(()).0,
            inner: Mutex::new(Inner {
                state: State::Running,
                pid: None,
                log: Log::new(log_bytes),
                metrics,
                started,
                begun: started,
                ended: None,
                exit: None,
                restarts: 0,
                lost: 0,
                stopped: false,
            }),
        }
    }

    /// What is known now. Never held across a wait.
    pub fn now(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something and lets followers know.
    pub fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let done = change(&mut self.now());
        self.changed.send_replace(());
        done
    }

    pub fn has_ended(&self) -> bool {
        self.now().state == State::Ended
    }

    /// The tool stops where it is, until it is resumed.
    pub fn pause(&self) -> Result<(), Refusal> {
        self.signal_if(State::Running, Signal::SIGSTOP, State::Paused)
    }

    pub fn resume(&self) -> Result<(), Refusal> {
        self.signal_if(State::Paused, Signal::SIGCONT, State::Running)
    }

    /// From one state to the next by a signal; nothing if it is there already.
    fn signal_if(&self, from: State, signal: Signal, to: State) -> Result<(), Refusal> {
        self.change(|inner| match inner.pid {
            _ if inner.state == to => Ok(()),
            Some(pid) if inner.state == from => {
                // A process that has just ended is a zombie, which takes signals.
                let _ = kill(Pid::from_raw(pid), signal);
                inner.state = to;
                Ok(())
            }
            _ => Err(Refusal::new(
                axum::http::StatusCode::CONFLICT,
                format_args!(
                    "program {}: is not {}: GET /v1/programs shows states",
                    self.name,
                    from.name()
                ),
            )),
        })
    }

    /// Asks it to end, as Ctrl-C does.
    pub fn ask_to_stop(&self) {
        self.change(|inner| {
            inner.stopped = true;
            let paused = inner.state == State::Paused;
            if inner.state != State::Ended {
                inner.state = State::Stopping;
            }
            if let Some(pid) = inner.pid {
                // As above.
                let _ = killpg(Pid::from_raw(pid), Signal::SIGINT);
                if paused {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
                }
            }
        });
    }

    /// Ends it; returns when it has ended.
    pub async fn stop(&self, grace: Duration) {
        self.ask_to_stop();
        if tokio::time::timeout(grace, self.until_ended())
            .await
            .is_err()
        {
            self.change(|inner| {
                if let Some(pid) = inner.pid {
                    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
                    inner
                        .log
                        .push(Stream::Service, "did not end when asked; killed".into());
                }
            });
            self.until_ended().await;
        }
    }

    /// Waits for its end.
    pub async fn until_ended(&self) {
        let mut changes = self.changed.subscribe();
        // The sender lives as long as the program.
        let _ = changes.wait_for(|()| self.has_ended()).await;
    }

    /// Runs it to its end, and again if that is asked for.
    pub async fn run(self: Arc<Program>, around: Arc<Surroundings>) {
        let mut wait = FIRST_WAIT;
        loop {
            let begun = Instant::now();
            let exit = self.run_once(&around).await;
            if begun.elapsed() > LAST_WAIT {
                wait = FIRST_WAIT;
            }
            let failed = exit.is_none_or(|exit| !exit.success());
            let again = match self.request.restart {
                Restart::Never => false,
                Restart::OnFailure => failed,
                Restart::Always => true,
            };
            let waits = self.change(|inner| {
                inner.exit = exit;
                let again = again && !inner.stopped;
                inner.state = if again { State::Waiting } else { State::Ended };
                inner.ended = (!again).then(now);
                again
            });
            if !waits {
                return;
            }
            let mut changes = self.changed.subscribe();
            let stopped = changes.wait_for(|()| self.now().stopped);
            let _ = tokio::time::timeout(wait, stopped).await;
            wait = (wait * 2).min(LAST_WAIT);
            let stopped = self.change(|inner| {
                if inner.stopped {
                    inner.state = State::Ended;
                    inner.ended = Some(now());
                } else {
                    inner.state = State::Running;
                    inner.restarts += 1;
                    inner.begun = now();
                    inner.metrics.begin_again();
                }
                inner.stopped
            });
            if stopped {
                return;
            }
        }
    }

    async fn run_once(self: &Arc<Program>, around: &Surroundings) -> Option<ExitStatus> {
        let mut child = match self.spawn(around) {
            Ok(child) => child,
            Err(error) => {
                let text = format!("bpftime: cannot be started ({error})");
                self.change(|inner| inner.log.push(Stream::Service, text));
                return None;
            }
        };
        // It has an id until it has been waited for, and ids of processes are positive ints.
        let group = child.id().and_then(|id| i32::try_from(id).ok())?;
        let guardian = || {
            around
                .guardian
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        guardian().add(group);
        let readers = reader::start(self, &mut child);
        self.change(|inner| {
            inner.pid = Some(group);
            inner.exit = None;
        });
        if self.now().stopped {
            self.ask_to_stop();
        }
        // Fails for who is not our child only.
        let exit = child.wait().await.ok();
        self.now().pid = None;
        // What it started ends with it.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        guardian().remove(group);
        for mut reader in readers {
            if tokio::time::timeout(REST, &mut reader).await.is_err() {
                reader.abort();
            }
        }
        exit
    }

    fn spawn(&self, around: &Surroundings) -> std::io::Result<Child> {
        let sampled = self.now().metrics.are_sampled();
        let mut command = Command::new(&around.bpftime);
        command
            .arg("run")
            .args(self.request.words(&self.source, sampled))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let service = std::process::id();
        // SAFETY: the closure makes two system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                match libc::getppid() as u32 == service {
                    true => Ok(()),
                    false => Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
                }
            });
        }
        command.spawn()
    }
}
