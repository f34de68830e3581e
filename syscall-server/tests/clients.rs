//! Runs C programs, as tools are, under the library and as an ordinary user,
//! and compares what they print with what they print on the kernel.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The user "nobody": has no capability and no kernel BPF.
const NOBODY: u32 = 65534;

/// The library's name once it is unpacked.
const LIBRARY: &str = "libbpftime-syscall-server.so";

/// A directory with a client and the library, readable by everyone.
struct Stage {
    directory: tempfile::TempDir,
    client: PathBuf,
}

impl Stage {
    /// Compiles `clients/NAME.c`.
    fn new(name: &str, libraries: &[&str]) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let client = directory.path().join(name);
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/clients")
            .join(format!("{name}.c"));
        let compiled = Command::new("cc")
            .args(["-Wall", "-Werror", "-O1", "-o"])
            .args([&client, &source])
            .args(libraries)
            .output()
            .unwrap();
        assert!(compiled.status.success(), "{}", text(&compiled.stderr));
        let built = std::env::current_exe().unwrap();
        let built = built.with_file_name("libbpftime_syscall_server.so");
        let library = directory.path().join(LIBRARY);
        std::fs::copy(built, &library).unwrap();
        for file in [&client, &library] {
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(file, open).unwrap();
        }
        for own in ["sessions", "state"] {
            let path = directory.path().join(own);
            std::fs::create_dir(&path).unwrap();
            if is_root() {
                chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        Stage { directory, client }
    }

    /// A command of an ordinary user that has the library preloaded.
    fn preloaded(&self, program: impl AsRef<Path>) -> Command {
        let at = |name: &str| self.directory.path().join(name);
        let mut command = Command::new(program.as_ref());
        command
            .env("LD_PRELOAD", at(LIBRARY))
            .env("BPFTIME_SESSION_DIR", at("sessions"))
            .env("BPFTIME_STATE_DIR", at("state"));
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn under_us(&self) -> String {
        printed(self.preloaded(&self.client).output().unwrap())
    }

    fn on_the_kernel(&self) -> String {
        printed(Command::new(&self.client).output().unwrap())
    }
}

fn is_root() -> bool {
    // SAFETY: takes nothing and only returns a number.
    unsafe { libc::getuid() == 0 }
}

/// Whether this kernel is the one whose answers were recorded.
fn kernel_is_the_oracle() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    is_root() && release.starts_with("6.18.")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn printed(output: Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(err, "", "nothing is said unasked");
    out
}

/// Fails with the lines that differ.
fn check_lines(got: &str, expected: &str, why: &str) {
    let (got, expected): (Vec<_>, Vec<_>) = (got.lines().collect(), expected.lines().collect());
    let differing: Vec<_> = got.iter().zip(&expected).filter(|(a, b)| a != b).collect();
    assert!(
        differing.is_empty(),
        "{why}: (ours, expected) {differing:#?}"
    );
    assert_eq!(got.len(), expected.len(), "{why}");
}

#[test]
fn answers_as_the_kernel_does() {
    let stage = Stage::new("errnos", &[]);
    let recorded = include_str!("clients/errnos.linux-6.18.txt");
    if kernel_is_the_oracle() {
        check_lines(&stage.on_the_kernel(), recorded, "the record is stale");
    }
    check_lines(&stage.under_us(), recorded, "we differ from the kernel");
}

#[test]
fn multi_links_are_judged_as_the_kernel_does() {
    let stage = Stage::new("multi", &["-pthread"]);
    if kernel_is_the_oracle() {
        let theirs = stage.on_the_kernel();
        check_lines(&stage.under_us(), &theirs, "we differ from the kernel");
        assert!(theirs.matches("errno 0").count() > 100);
    }
}

#[test]
fn maps_of_maps_answer_as_the_kernels() {
    let stage = Stage::new("nested", &[]);
    if kernel_is_the_oracle() {
        let theirs = stage.on_the_kernel();
        check_lines(&stage.under_us(), &theirs, "we differ from the kernel");
        assert!(theirs.matches("errno 0").count() > 100);
    }
}

#[test]
fn values_with_locks_are_copied_as_by_the_kernel() {
    let stage = Stage::new("locks", &["-lbpf", "-pthread"]);
    if kernel_is_the_oracle() {
        let theirs = stage.on_the_kernel();
        check_lines(&stage.under_us(), &theirs, "we differ from the kernel");
        assert!(theirs.matches("errno 0").count() > 100);
        assert_eq!(theirs.matches("fine").count(), 8);
    }
}

#[test]
fn fds_have_the_rights_that_the_kernel_gives() {
    let stage = Stage::new("rights", &[]);
    if kernel_is_the_oracle() {
        let theirs = stage.on_the_kernel();
        check_lines(&stage.under_us(), &theirs, "we differ from the kernel");
        assert!(theirs.matches("errno 0").count() > 50);
    }
}

#[test]
fn pins_are_names_as_in_bpffs() {
    let stage = Stage::new("pins", &[]);
    if kernel_is_the_oracle() && Path::new("/sys/fs/bpf").exists() {
        let theirs = stage.on_the_kernel();
        check_lines(&stage.under_us(), &theirs, "we differ from the kernel");
    }
}

#[test]
fn a_libbpf_tool_runs() {
    let stage = Stage::new("tool", &["-lbpf"]);
    let expected = "\
mapped value: 42
program \"records\" of type 2 uses 1 map
ready before anything: 0
ready after the pipe: 1, the pipe: 1
value after a child: 42
records: 0, ready after all were read: 0
records after detach: 0
";
    if kernel_is_the_oracle() {
        assert_eq!(stage.on_the_kernel(), expected);
    }
    assert_eq!(stage.under_us(), expected);
}

#[test]
fn rings_that_are_written_backward_are_refused() {
    let stage = Stage::new("backward", &[]);
    if kernel_is_the_oracle() {
        assert_eq!(stage.on_the_kernel(), "opened\n");
    }
    assert_eq!(stage.under_us(), "Operation not supported\n");
}

#[test]
fn wrappers_stay_what_they_are() {
    let stage = Stage::new("errnos", &[]);
    let check = |command: &mut Command, expected: &str| {
        assert_eq!(printed(command.output().unwrap()), expected);
    };
    check(
        stage
            .preloaded("/bin/sh")
            .args(["-c", "ulimit -n >/dev/null; echo done; exit 0"]),
        "done\n",
    );
    check(
        stage
            .preloaded("/usr/bin/timeout")
            .args(["5", "printf", "done"]),
        "done",
    );
    check(
        stage
            .preloaded("/usr/bin/env")
            .args(["sh", "-c", "echo $LD_PRELOAD | wc -w"]),
        "1\n",
    );
    let sessions = std::fs::read_dir(stage.directory.path().join("sessions")).unwrap();
    assert_eq!(sessions.count(), 0, "no session without bpf(2)");
}
