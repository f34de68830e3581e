//! One test's surroundings: who runs the programs, where their files are, and
//! whether eBPF is ours or the kernel's. The same story can so be told twice
//! and compared. It knows no particular tool.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{Uid, User};
use tempfile::TempDir;

use crate::program::{Exit, Program};
use crate::stage::Stage;
use crate::wait;

/// Where the programs of a test's tools run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the targets, by bpftime, as an ordinary user.
    Bpftime,
    /// In the kernel, as root, without bpftime: the oracle.
    Kernel,
}

/// The user that stands for an ordinary one when the tests run as root.
const ORDINARY: &str = "nobody";

/// Where Debian keeps administrators' tools, among them libbpf-tools.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The surroundings of one test.
pub struct World {
    mode: Mode,
    home: TempDir,
    sessions: PathBuf,
    user: Option<User>,
}

impl World {
    /// bpftime as an ordinary user, with sessions and state of its own.
    ///
    /// # Panics
    /// If its directories cannot be made.
    pub fn new() -> World {
        World::with(Mode::Bpftime)
    }

    /// The kernel's eBPF, or `None` where it cannot be had. In CI that is an error.
    ///
    /// # Panics
    /// In CI, without root.
    pub fn kernel() -> Option<World> {
        if Uid::effective().is_root()
            && Path::new("/sys/bus/event_source/devices/uprobe/type").exists()
        {
            return Some(World::with(Mode::Kernel));
        }
        assert!(
            std::env::var_os("CI").is_none(),
            "comparing with the kernel needs root and uprobes; in CI nothing is left out"
        );
        None
    }

    /// bpftime as root, for whom the kernel hosts what user space cannot, or
    /// `None` without root. In CI that is an error.
    ///
    /// # Panics
    /// In CI, without root.
    pub fn privileged() -> Option<World> {
        let mut world = World::kernel()?;
        world.mode = Mode::Bpftime;
        world.user = None;
        chown(world.home.path(), Some(0), Some(0)).expect("a home");
        Some(world)
    }

    fn with(mode: Mode) -> World {
        let home = tempfile::Builder::new()
            .prefix("bpftime-home-")
            .tempdir()
            .expect("a home");
        let user = Uid::effective().is_root().then(|| {
            User::from_name(ORDINARY)
                .expect("the user database")
                .expect("an ordinary user")
        });
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("a home");
        if let Some(user) = &user {
            chown(
                home.path(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )
            .expect("a home");
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let sessions = PathBuf::from(format!(
            "/dev/shm/bpftime-test-{}-{number}",
            std::process::id()
        ));
        World {
            mode,
            home,
            sessions,
            user,
        }
    }

    /// Bpftime or kernel.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// A directory of the ordinary user.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Where this world's sessions are while there are any.
    pub fn sessions(&self) -> &Path {
        &self.sessions
    }

    /// A fixture by its file name, as a file of this world alone: the kernel's
    /// uprobes go by inode and would see the calls of other tests.
    ///
    /// # Panics
    /// If there is no such fixture.
    pub fn fixture(&self, name: &str) -> PathBuf {
        let path = self.home().join(name);
        if !path.exists() {
            let copied = fs::copy(Stage::get().fixture(name), &path);
            assert!(copied.is_ok(), "no fixture {name}: {copied:?}");
        }
        path
    }

    /// The `bpftime` binary.
    pub fn binary(&self) -> PathBuf {
        Stage::get().bpftime()
    }

    /// The user id of targets.
    pub fn uid(&self) -> u32 {
        self.user
            .as_ref()
            .map_or_else(|| Uid::effective().as_raw(), |user| user.uid.as_raw())
    }

    /// A command that the ordinary user runs, without any tracing.
    pub fn plain<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("HOME", self.home())
            .env("BPFTIME_STATE_DIR", self.home().join("state"))
            .env("BPFTIME_SESSION_DIR", &self.sessions)
            .current_dir("/");
        if let Some(user) = &self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// A `bpftime` command of the ordinary user.
    pub fn bpftime<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut all: Vec<OsString> = vec![Stage::get().bpftime().into()];
        all.extend(words.iter().map(|word| word.as_ref().to_owned()));
        self.plain(&all)
    }

    /// Runs a `bpftime` command to its end.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Exit {
        Program::on_pipes(self.bpftime(words)).finish()
    }

    /// A tool's command: `bpftime load` as the ordinary user, or the tool
    /// itself as root with the trace file systems in sight.
    pub fn tool<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        match self.mode {
            Mode::Bpftime => {
                let mut all = vec![OsString::from("load")];
                all.extend(words.iter().map(|word| word.as_ref().to_owned()));
                self.bpftime(&all)
            }
            Mode::Kernel => {
                let script = "mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; \
                              mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null; exec \"$@\"";
                let mut command = Command::new("unshare");
                command
                    .args(["-m", "sh", "-c", script, "sh"])
                    .args(words)
                    .env_clear();
                command
                    .env("PATH", PATH)
                    .env("LC_ALL", "C")
                    .env("HOME", self.home());
                command
            }
        }
    }

    /// A target's command: `bpftime start`, or just the command.
    pub fn target<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        match self.mode {
            Mode::Bpftime => {
                let mut all = vec![OsString::from("start")];
                all.extend(words.iter().map(|word| word.as_ref().to_owned()));
                self.bpftime(&all)
            }
            Mode::Kernel => self.plain(words),
        }
    }

    /// Starts a tool on a terminal.
    pub fn load<S: AsRef<OsStr>>(&self, words: &[S]) -> Program {
        Program::on_terminal(self.tool(words))
    }

    /// Starts a fixture tool on pipes and waits for its `ready`.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn fixture_tool(&self, name: &str, options: &[&str], path: &Path, symbol: &str) -> Program {
        let mut words = vec![self.fixture(name).into_os_string()];
        words.extend(options.iter().map(OsString::from));
        words.push(path.as_os_str().to_owned());
        words.push(symbol.into());
        let mut tool = Program::on_pipes(self.tool(&words));
        assert_eq!(tool.line(), "ready");
        tool
    }

    /// Starts a target on pipes.
    pub fn start<S: AsRef<OsStr>>(&self, words: &[S]) -> Program {
        Program::on_pipes(self.target(words))
    }

    /// Starts `puppet` and waits for its greeting.
    ///
    /// # Panics
    /// If it does not greet.
    pub fn puppet(&self) -> Program {
        let mut puppet = self.start(&[self.fixture("puppet")]);
        assert_eq!(puppet.line(), format!("pid {}", puppet.pid()));
        puppet
    }

    /// Starts `puppet` without any agent and waits for its greeting.
    ///
    /// # Panics
    /// If it does not greet.
    pub fn bare_puppet(&self) -> Program {
        let mut puppet = Program::on_pipes(self.plain(&[self.fixture("puppet")]));
        assert_eq!(puppet.line(), format!("pid {}", puppet.pid()));
        puppet
    }

    /// Waits until nothing of this world is left in /dev/shm.
    ///
    /// # Panics
    /// If something is left for long.
    pub fn expect_nothing_left(&self) {
        let what = format!("the end of {}", self.sessions.display());
        wait::until_true(&what, wait::LONG, || !self.sessions.exists());
    }
}

impl Default for World {
    fn default() -> World {
        World::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Every test ends its tools first (they are declared later), so this checks each of them.
        if std::thread::panicking() {
            // A test that failed half way may not have ended its tools in order.
            drop(fs::remove_dir_all(&self.sessions));
        } else {
            self.expect_nothing_left();
        }
    }
}
