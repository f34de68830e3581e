//! A session owned by the test, and programs with the agent preloaded.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use object::ElfFile;
use runtime::session::{Counts, Dirs, LinkKind, LinkSpec, Place, Role, Session};
use tempfile::TempDir;
use uapi::Insn;
use vm::ProgramSpec;

/// What `cc` made of the C files beside this one.
pub struct Built {
    _directory: TempDir,
    pub victim: PathBuf,
    pub plugin: PathBuf,
    /// Calls the kernel by `int 0x80`.
    pub old: PathBuf,
}

pub fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let compile = |source: &str, output: &str, flags: &[&str]| {
            let path = directory.path().join(output);
            let status = Command::new("cc")
                .args(["-O2", "-o"])
                .arg(&path)
                .arg(
                    Path::new(env!("CARGO_MANIFEST_DIR"))
                        .join("tests/preload")
                        .join(source),
                )
                .args(flags)
                .status()
                .expect("cc is installed");
            assert!(status.success());
            path
        };
        let victim = compile("victim.c", "victim", &["-pthread", "-ldl"]);
        let plugin = compile("plugin.c", "plugin.so", &["-shared", "-fPIC"]);
        let old = compile("old.c", "old.so", &["-shared", "-fPIC"]);
        Built {
            _directory: directory,
            victim,
            plugin,
            old,
        }
    })
}

/// The library under test: built by cargo beside this test's directory.
pub fn agent() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().join("libbpftime_agent.so");
    assert!(path.exists(), "{} is built", path.display());
    path
}

/// State and sessions of one test.
pub struct World {
    pub root: TempDir,
    pub dirs: Dirs,
}

impl World {
    pub fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs {
            state: root.path().join("state"),
            sessions: root.path().join("sessions"),
        };
        World { root, dirs }
    }

    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", agent())
            .env("BPFTIME_STATE_DIR", &self.dirs.state)
            .env("BPFTIME_SESSION_DIR", &self.dirs.sessions)
            .env("BPFTIME_LOG", "debug");
        command
    }

    pub fn victim(&self) -> Victim {
        self.start_victim(self.command(&built().victim))
    }

    /// A victim with that `BPFTIME_HOOK`.
    pub fn victim_hooked_by(&self, backend: &str) -> Victim {
        let mut command = self.command(&built().victim);
        command.env("BPFTIME_HOOK", backend);
        self.start_victim(command)
    }

    pub fn start_victim(&self, mut command: Command) -> Victim {
        let mut child = command
            .arg(&built().plugin)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut victim = Victim {
            child,
            commands,
            answers,
        };
        assert_eq!(victim.answer(), "ready");
        victim
    }

    pub fn session(&self) -> Tool {
        Tool::new(&self.dirs)
    }

    /// What agents logged, for a test that fails.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.dirs.state)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with("log-") {
                text += &format!("{:?}:\n", entry.file_name());
                text += &std::fs::read_to_string(entry.path()).unwrap_or_default();
            }
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut error = std::io::stderr();
            let _ = writeln!(error, "{}{}", self.root.path().display(), self.logs());
        }
    }
}

pub struct Tool {
    pub session: Session,
    pub program: u32,
}

impl Tool {
    pub fn new(dirs: &Dirs) -> Tool {
        let session = Session::create(dirs).unwrap();
        let spec = ProgramSpec {
            name: "count".into(),
            prog_type: 2,
            gpl: true,
            // r0 = 0; exit
            insns: vec![Insn::new(0xb7, 0, 0, 0, 0), Insn::new(0x95, 0, 0, 0, 0)],
            ..ProgramSpec::default()
        };
        let program = session.create_program(&spec).unwrap();
        Tool { session, program }
    }

    pub fn link(&self, file: &Path, symbol: &str, kind: LinkKind, pid: i32) -> u32 {
        self.link_behind(file, symbol, 0, kind, pid)
    }

    /// So many bytes behind the beginning of the function.
    pub fn link_behind(
        &self,
        file: &Path,
        symbol: &str,
        bytes: u64,
        kind: LinkKind,
        pid: i32,
    ) -> u32 {
        let text = std::fs::read(file).unwrap();
        let elf = ElfFile::parse(&text).unwrap();
        let address = elf.function_address(symbol).unwrap();
        let meta = std::fs::metadata(file).unwrap();
        let offset = elf.offset_of_address(address).unwrap() + bytes;
        self.create_link(LinkSpec {
            kind,
            prog: self.program,
            dev: meta.dev(),
            ino: meta.ino(),
            path: file.display().to_string(),
            pid,
            enabled: true,
            places: vec![at(offset)],
        })
    }

    /// Before every system call.
    pub fn any_syscall(&self) -> u32 {
        self.create_link(LinkSpec {
            kind: LinkKind::AnySyscallEnter,
            prog: self.program,
            dev: 0,
            ino: 0,
            path: String::new(),
            pid: -1,
            enabled: true,
            places: vec![at(0)],
        })
    }

    fn create_link(&self, spec: LinkSpec) -> u32 {
        self.session.create_link(&spec).unwrap()
    }

    pub fn work(&self) -> u32 {
        self.link(&built().victim, "work", LinkKind::Uprobe, -1)
    }

    pub fn counts(&self, link: u32) -> Counts {
        self.session.publish();
        self.session.counters(link).unwrap().totals()
    }

    pub fn agents(&self) -> Vec<(i32, u32, String)> {
        let members = self.session.roster().members();
        let agents = members.into_iter().filter(|m| m.role == Role::Agent);
        agents.map(|m| (m.process.pid, m.hooks, m.errors)).collect()
    }
}

fn at(offset: u64) -> Place {
    Place {
        offset,
        cookie: 0,
        ref_ctr_offset: 0,
    }
}

pub fn hits(hits: u64) -> Counts {
    Counts { hits, missed: 0 }
}

pub struct Victim {
    pub child: Child,
    pub commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Victim {
    pub fn tell(&mut self, command: &str) {
        let commands = self.commands.as_mut().unwrap();
        commands.write_all(command.as_bytes()).unwrap();
        commands.flush().unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Ends it; it must end well and have said nothing of ours.
    pub fn end(mut self) {
        drop(self.commands.take());
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}
