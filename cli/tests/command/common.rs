//! What the tests of the command share: a scratch directory with its own
//! state and sessions, small C programs, and one `check` of what a user sees.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A scratch directory in which nothing of the user's real state is touched.
pub struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a scratch directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `bpftime` that starts in this directory.
    pub fn bpftime<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bpftime"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("BPFTIME_STATE_DIR", self.path("state"))
            .env("BPFTIME_SESSION_DIR", self.path("sessions"))
            .env_remove("BPFTIME_LOG")
            .env_remove("LD_PRELOAD");
        command
    }

    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("write a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        path
    }

    /// Compiles a C program with `compiler` and `flags`.
    pub fn compile(&self, compiler: &str, flags: &[&str], name: &str, source: &str) -> PathBuf {
        let c = self.file(&format!("{name}.c"), source, 0o644);
        let program = self.path(name);
        let output = Command::new(compiler)
            .args(flags)
            .arg("-o")
            .arg(&program)
            .arg(&c)
            .output()
            .expect("run the compiler");
        assert!(
            output.status.success(),
            "{compiler}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        program
    }
}

/// Exit status, stdout, stderr, as a user sees them.
#[track_caller]
pub fn check(command: &mut Command, status: i32, stdout: &str, stderr: &str) {
    let Output {
        status: got,
        stdout: out,
        stderr: err,
    } = command.output().expect("run bpftime");
    let seen = (
        got.code(),
        String::from_utf8_lossy(&out).into_owned(),
        String::from_utf8_lossy(&err).into_owned(),
    );
    assert_eq!(seen, (Some(status), stdout.to_owned(), stderr.to_owned()));
}

/// Whether `name` can be run here.
pub fn installed(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).exists()))
}

/// Whether a test, or part of one, can run here. Says what is left out; in CI
/// that is an error.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
pub fn can(what: &str, possible: bool) -> bool {
    if !possible {
        assert!(
            std::env::var_os("CI").is_none(),
            "{what}; in CI nothing is left out"
        );
        eprintln!("skipped: {what}");
    }
    possible
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
