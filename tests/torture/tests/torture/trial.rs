//! Runs a command plainly and under the preloaded library, and compares all
//! that can be seen of it.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest run of anything; in a long run everything may take ten times as long.
const LONGEST: Duration = Duration::from_secs(120);

/// Which probes are on everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At entries, from the start to the end.
    Entry,
    /// At entries and returns, from the start to the end.
    Return,
    /// At entries and returns, attached and detached all the time.
    Toggle,
}

/// All modes.
pub const ALL: [Mode; 3] = [Mode::Entry, Mode::Return, Mode::Toggle];

/// Whether there is time.
pub fn is_long() -> bool {
    std::env::var_os("TORTURE_LONG").is_some()
}

/// The library under test, optimised as users have it: planning for every
/// function would take too long otherwise.
pub fn library() -> PathBuf {
    let torture = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = torture.join("../../target/release/libbpftime_torture.so");
    path.canonicalize()
        .expect("`cargo build --release -p bpftime-torture`, which `make test` does")
}

/// One program's place and what it is run with.
pub struct Trial {
    directory: TempDir,
    /// Libraries to load from the start, so that their functions are probed.
    also: Vec<PathBuf>,
    modules: String,
    alone: bool,
}

impl Trial {
    /// A place for a program.
    pub fn new() -> Trial {
        Trial {
            directory: tempfile::tempdir().expect("a directory"),
            also: Vec::new(),
            modules: String::new(),
            alone: false,
        }
    }

    /// Only the program itself, not those that it starts.
    pub fn alone(mut self) -> Trial {
        self.alone = true;
        self
    }

    /// Loads the library of this name from the start, if it is installed.
    pub fn with_library(mut self, name: &str) -> Trial {
        let found = [
            "/",
            "/lib/x86_64-linux-gnu",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/lib64",
        ]
        .map(|directory| Path::new(directory).join(name))
        .into_iter()
        .find(|path| path.exists());
        self.also.extend(found);
        self
    }

    /// Only modules whose path holds one of `names`, separated by commas.
    pub fn only(mut self, names: &str) -> Trial {
        self.modules = names.to_owned();
        self
    }

    /// The directory that the program runs in.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file for the program.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file");
        path
    }

    /// The command in the trial's directory, without the library.
    pub fn plain(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .current_dir(self.directory.path())
            .env("LC_ALL", "C")
            .env("HOME", self.directory.path())
            .env_remove("LD_PRELOAD")
            .stdin(Stdio::null());
        command
    }

    /// The same under probes on everything.
    pub fn tortured(&self, mode: Mode, words: &[&str]) -> Command {
        let mut command = self.plain(words);
        let mut preload = library().into_os_string();
        for path in &self.also {
            preload.push(":");
            preload.push(path);
        }
        command
            .env("LD_PRELOAD", preload)
            .env("TORTURE_REPORT", self.path("report"));
        if mode != Mode::Entry {
            command.env("TORTURE_RETURNS", "1");
        }
        if mode == Mode::Toggle {
            command.env("TORTURE_TOGGLE", "5000");
        }
        if self.alone {
            command.env("TORTURE_ALONE", "1");
        }
        if !self.modules.is_empty() {
            command.env("TORTURE_MODULES", &self.modules);
        }
        command
    }

    /// What the processes said since the last call. At least one has, all text
    /// is as it was, and nearly all functions took a probe.
    pub fn reports(&self) {
        let path = self.path("report");
        let text = fs::read_to_string(&path).expect("a process came to its end");
        fs::remove_file(&path).expect("the report");
        let fields = |line: &str| {
            line.split('\t')
                .filter_map(|field| field.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect()
        };
        let reports: Vec<HashMap<String, String>> = text.lines().map(fields).collect();
        for report in &reports {
            assert_eq!(report["changed"], "", "text is not as it was: {report:?}");
            assert_eq!(
                report["lost"], "",
                "mappings are not as they were: {report:?}"
            );
            assert_ne!(report["attached"], "0", "{report:?}");
            assert_ne!(report["hits"], "0", "{report:?}");
        }
    }

    /// Runs a command plainly and in `modes`: exit, stdout and stderr are the
    /// same.
    pub fn same(&self, modes: &[Mode], words: &[&str]) {
        self.same_as_seen_by(modes, words, |text| text);
    }

    /// As [`Trial::same`] for outputs of which only a part is the same each
    /// time.
    pub fn same_as_seen_by(&self, modes: &[Mode], words: &[&str], view: impl Fn(String) -> String) {
        let seen = |output: Output| {
            let text = |bytes: Vec<u8>| view(String::from_utf8_lossy(&bytes).into_owned());
            (
                output.status.to_string(),
                text(output.stdout),
                text(output.stderr),
            )
        };
        let plain = seen(finish(self.plain(words)));
        for mode in modes {
            let tortured = seen(finish(self.tortured(*mode, words)));
            assert_eq!(tortured, plain, "{mode:?} {words:?}");
            self.reports();
        }
    }
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Output {
    let child = command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = child.id().cast_signed();
    let patience = LONGEST * if is_long() { 10 } else { 1 };
    let (done, over) = std::sync::mpsc::channel::<()>();
    let begun = Instant::now();
    let watch = std::thread::spawn(move || {
        if over
            .recv_timeout(patience)
            .is_err_and(|why| why == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            // SAFETY: takes numbers; the group is ours and not waited for yet.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
    });
    let output = child.wait_with_output().expect("its output");
    drop(done);
    watch.join().expect("the watch");
    assert!(begun.elapsed() < patience, "{command:?} hangs");
    output
}
