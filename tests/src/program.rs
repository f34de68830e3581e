//! A running process with its input and output: what it printed so far can be
//! waited for, line by line. It knows nothing of tracing.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{OutputFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;

use crate::wait::{self, LONG};

/// An interrupt that nothing came of for so long was not heard.
const HEARD: Duration = Duration::from_secs(4);

/// What a program printed on one stream so far.
#[derive(Default)]
struct Stream {
    text: Mutex<(String, bool)>, // and whether it has ended
    grown: Condvar,
}

impl Stream {
    fn collect(mut source: impl Read + Send + 'static) -> Arc<Stream> {
        let stream = Arc::new(Stream::default());
        let filled = Arc::clone(&stream);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            let mut pending = Vec::new();
            // A terminal whose other side is closed answers EIO: the end, too.
            while let Ok(count @ 1..) = source.read(&mut bytes) {
                pending.extend_from_slice(&bytes[..count]);
                let text = String::from_utf8_lossy(&pending).into_owned();
                filled.text.lock().expect("the stream").0 = text;
                filled.grown.notify_all();
            }
            filled.text.lock().expect("the stream").1 = true;
            filled.grown.notify_all();
        });
        stream
    }

    fn now(&self) -> String {
        self.text.lock().expect("the stream").0.clone()
    }

    /// Waits until `found` gives something for the whole text; `None` if the
    /// stream ends or [`LONG`] passes first.
    fn wait<T>(&self, mut found: impl FnMut(&str, bool) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + LONG;
        let mut text = self.text.lock().expect("the stream");
        loop {
            if let Some(value) = found(&text.0, text.1) {
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if text.1 || left.is_zero() {
                return None;
            }
            text = self.grown.wait_timeout(text, left).expect("the stream").0;
        }
    }
}

/// How a program ended and all that it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

/// The calls of who waits for events.
const WAITS: [i64; 4] = [
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
];
/// The calls of who sleeps for a time.
const SLEEPS: [i64; 2] = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep];
/// The call of who waits for a line.
const READS: [i64; 1] = [libc::SYS_read];

/// A child process; killed if it still runs when this is dropped.
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
    read: usize,
}

impl Program {
    /// Starts `command` with pipes for its three streams.
    ///
    /// # Panics
    /// If it does not start.
    pub fn on_pipes(mut command: Command) -> Program {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        let stdout = Stream::collect(child.stdout.take().expect("a pipe"));
        Program::new(name_of(&command), child, stdout)
    }

    /// Starts `command` with a terminal as stdout, so that it shows each line
    /// at once, as people see it.
    ///
    /// # Panics
    /// If it does not start.
    pub fn on_terminal(mut command: Command) -> Program {
        let terminal = openpty(None, None).expect("a terminal");
        let mut settings = tcgetattr(&terminal.slave).expect("terminal settings");
        settings.output_flags.remove(OutputFlags::OPOST); // no \r before \n
        tcsetattr(&terminal.slave, SetArg::TCSANOW, &settings).expect("terminal settings");
        command
            .stdin(Stdio::piped())
            .stdout(terminal.slave)
            .stderr(Stdio::piped());
        let child = spawn(&mut command);
        let name = name_of(&command);
        // The command holds the other side of the terminal: while it does, the end is not seen.
        drop(command);
        Program::new(name, child, Stream::collect(File::from(terminal.master)))
    }

    fn new(name: String, mut child: Child, stdout: Arc<Stream>) -> Program {
        Program {
            name,
            stdin: child.stdin.take(),
            stderr: Stream::collect(child.stderr.take().expect("a pipe")),
            stdout,
            child,
            read: 0,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Writes one line to its stdin.
    ///
    /// # Panics
    /// If it does not read any more.
    pub fn tell(&mut self, line: &str) {
        let written = self
            .stdin
            .as_mut()
            .expect("an open stdin")
            .write_all(format!("{line}\n").as_bytes());
        if let Err(error) = written {
            panic!(
                "telling {} `{line}`: {error}\n{}",
                self.name,
                self.printed()
            );
        }
    }

    /// The next line that it prints on stdout, without its end.
    ///
    /// # Panics
    /// If none comes.
    pub fn line(&mut self) -> String {
        let from = self.read;
        let line = self.stdout.wait(|text, _| {
            text[from..]
                .split_once('\n')
                .map(|(line, _)| line.to_owned())
        });
        let Some(line) = line else {
            panic!("{} printed no further line\n{}", self.name, self.printed());
        };
        self.read += line.len() + 1;
        line
    }

    /// Reads lines until one for which `wanted` holds, and returns all of them.
    ///
    /// # Panics
    /// If none comes.
    pub fn lines_until(&mut self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            let found = wanted(&line);
            lines.push(line);
            if found {
                return lines;
            }
        }
    }

    /// Tells it `line` and returns the line that it answers.
    ///
    /// # Panics
    /// As [`Program::tell`] and [`Program::line`].
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.line()
    }

    /// Waits until stderr contains `text`.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_stderr(&self, text: &str) {
        let found = self.stderr.wait(|all, _| all.contains(text).then_some(()));
        assert!(
            found.is_some(),
            "{} did not say {text:?} on stderr\n{}",
            self.name,
            self.printed()
        );
    }

    /// What it printed on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.now()
    }

    /// Waits until it sleeps in poll(2), epoll_wait(2) or their like: it has
    /// done all that it does before the next event.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_idle(&self) {
        self.wait_in(&WAITS);
    }

    /// Waits until it sleeps for a time, as tools do that sum up until they are
    /// interrupted.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_asleep(&self) {
        self.wait_in(&SLEEPS);
    }

    /// Waits until it does either.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_idle_or_asleep(&self) {
        self.wait_in(&[&WAITS[..], &SLEEPS].concat());
    }

    /// Waits until it reads, as targets do that wait for a line: the exit of
    /// its last call has been seen then.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_reading(&self) {
        self.wait_in(&READS);
    }

    fn wait_in(&self, calls: &[i64]) {
        let what = format!("{} waits", self.name);
        wait::until_true(&what, LONG, || self.is_in(calls));
    }

    /// Whether its first thread is in one of these system calls.
    fn is_in(&self, calls: &[i64]) -> bool {
        let path = format!("/proc/{}/syscall", self.pid());
        let now = std::fs::read_to_string(path).unwrap_or_default();
        calls
            .iter()
            .any(|number| now.starts_with(&format!("{number} ")))
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Sends it `signal`.
    ///
    /// # Panics
    /// If it has been reaped.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("a living child");
    }

    /// Closes its stdin.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Interrupts it as Ctrl-C does and waits for its end. An interrupt that
    /// does not find bpftrace 0.17 waiting is lost to it: whoever waits for
    /// events seconds later is interrupted again.
    ///
    /// # Panics
    /// As [`Program::finish`].
    pub fn interrupt(mut self) -> Exit {
        self.signal(Signal::SIGINT);
        let mut sent = Instant::now();
        let begun = sent;
        while self.runs() && begun.elapsed() < LONG {
            if sent.elapsed() > HEARD && self.is_in(&WAITS) {
                self.signal(Signal::SIGINT);
                sent = Instant::now();
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        self.finish()
    }

    /// Kills it by SIGKILL and waits for its end.
    ///
    /// # Panics
    /// As [`Program::finish`].
    pub fn kill(self) -> Exit {
        self.signal(Signal::SIGKILL);
        self.finish()
    }

    /// Closes its stdin and waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn finish(mut self) -> Exit {
        self.stdin = None;
        let what = format!("the end of {}", self.name);
        let (status, _) = wait::until(&what, LONG, || self.child.try_wait().expect("a child"));
        // A descendant may hold the pipes; then what came until now is all that is asked for.
        let all = |stream: &Stream| stream.wait(|text, ended| ended.then(|| text.to_owned()));
        Exit {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: all(&self.stdout).unwrap_or_else(|| self.stdout.now()),
            stderr: all(&self.stderr).unwrap_or_else(|| self.stderr.now()),
        }
    }

    fn printed(&self) -> String {
        format!(
            "--- stdout\n{}\n--- stderr\n{}",
            self.stdout.now(),
            self.stderr.now()
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It runs and is our child: both calls can fail only if it ends meanwhile.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A command as one line, for messages.
fn name_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn spawn(command: &mut Command) -> Child {
    match command.spawn() {
        Ok(child) => child,
        Err(error) => panic!("{command:?}: {error}"),
    }
}
