//! The agent in real processes: preloaded into a small C program that does
//! what it is told, with a session owned by the test.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use object::ElfFile;
use runtime::session::{
    Counts, Dirs, LinkKind, LinkSpec, Place, Role, Roster, Session, spawn_sweeper,
};
use tempfile::TempDir;
use uapi::Insn;
use vm::ProgramSpec;

/// What `cc` made of the C files beside this one.
struct Built {
    _directory: TempDir,
    victim: PathBuf,
    plugin: PathBuf,
}

fn built() -> &'static Built {
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
                        .join("tests")
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
        Built {
            _directory: directory,
            victim,
            plugin,
        }
    })
}

/// The library under test: built by cargo beside this test's directory.
fn agent() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let path = exe.parent().unwrap().join("libbpftime_agent.so");
    assert!(path.exists(), "{} is built", path.display());
    path
}

/// State and sessions of one test.
struct World {
    root: TempDir,
    dirs: Dirs,
}

impl World {
    fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs {
            state: root.path().join("state"),
            sessions: root.path().join("sessions"),
        };
        World { root, dirs }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("LD_PRELOAD", agent())
            .env("BPFTIME_STATE_DIR", &self.dirs.state)
            .env("BPFTIME_SESSION_DIR", &self.dirs.sessions)
            .env("BPFTIME_LOG", "debug");
        command
    }

    fn victim(&self) -> Victim {
        self.start_victim(self.command(&built().victim))
    }

    /// A victim with that `BPFTIME_HOOK`.
    fn victim_hooked_by(&self, backend: &str) -> Victim {
        let mut command = self.command(&built().victim);
        command.env("BPFTIME_HOOK", backend);
        self.start_victim(command)
    }

    fn start_victim(&self, mut command: Command) -> Victim {
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

    fn session(&self) -> Tool {
        Tool::new(&self.dirs)
    }

    /// What agents logged, for a test that fails.
    fn logs(&self) -> String {
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

struct Tool {
    session: Session,
    program: u32,
}

impl Tool {
    fn new(dirs: &Dirs) -> Tool {
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

    fn link(&self, file: &Path, symbol: &str, kind: LinkKind, pid: i32) -> u32 {
        let bytes = std::fs::read(file).unwrap();
        let elf = ElfFile::parse(&bytes).unwrap();
        let address = elf.function_address(symbol).unwrap();
        let meta = std::fs::metadata(file).unwrap();
        self.session
            .create_link(&LinkSpec {
                kind,
                prog: self.program,
                dev: meta.dev(),
                ino: meta.ino(),
                path: file.display().to_string(),
                pid,
                enabled: true,
                places: vec![Place {
                    offset: elf.offset_of_address(address).unwrap(),
                    cookie: 0,
                    ref_ctr_offset: 0,
                }],
            })
            .unwrap()
    }

    fn work(&self) -> u32 {
        self.link(&built().victim, "work", LinkKind::Uprobe, -1)
    }

    fn counts(&self, link: u32) -> Counts {
        self.session.publish();
        self.session.counters(link).unwrap().totals()
    }

    fn agents(&self) -> Vec<(i32, u32, String)> {
        let members = self.session.roster().members();
        let agents = members.into_iter().filter(|m| m.role == Role::Agent);
        agents.map(|m| (m.process.pid, m.hooks, m.errors)).collect()
    }
}

fn hits(hits: u64) -> Counts {
    Counts { hits, missed: 0 }
}

struct Victim {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Victim {
    fn tell(&mut self, command: &str) {
        let commands = self.commands.as_mut().unwrap();
        commands.write_all(command.as_bytes()).unwrap();
        commands.flush().unwrap();
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer()
    }

    fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Ends it; it must end well and have said nothing of ours.
    fn end(mut self) {
        drop(self.commands.take());
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn nobody_notices_it_without_a_session() {
    let world = World::new();
    let output = world
        .command(Path::new("/bin/echo"))
        .arg("hello")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"hello\n");
    assert_eq!(output.stderr, b"");
    assert!(!world.dirs.sessions.exists());
}

#[test]
fn a_program_started_later_has_its_probes_before_main() {
    let world = World::new();
    let tool = world.session();
    let link = tool.work();
    tool.session.publish();
    let status = world.command(&built().victim).arg("once").status().unwrap();
    assert!(status.success());
    assert_eq!(tool.counts(link), hits(1000));
    until("it leaves the roster", || tool.agents().is_empty());
}

#[test]
fn a_tool_started_later_reaches_a_running_program() {
    let world = World::new();
    let mut victim = world.victim();
    let tool = world.session();
    let link = tool.work();
    let back = tool.link(&built().victim, "work", LinkKind::Uretprobe, -1);
    tool.session.publish();
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(1000));
    assert_eq!(tool.counts(back), hits(1000));
    assert_eq!(tool.agents(), [(victim.pid(), 2, String::new())]);
    tool.session.set_link_enabled(link, false);
    tool.session.publish();
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(1000));
    assert_eq!(tool.counts(back), hits(2000));
    tool.session.remove(back).unwrap();
    tool.session.publish();
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.agents(), [(victim.pid(), 0, String::new())]);
    tool.session.close();
    assert_eq!(victim.ask("w"), "worked");
    victim.end();
    assert!(!world.dirs.sessions.exists());
}

#[test]
fn several_tools_count_on_their_own() {
    let world = World::new();
    let mut victim = world.victim();
    let tools = [world.session(), world.session()];
    let links = [0, 1].map(|n| {
        let link = tools[n].work();
        tools[n].session.publish();
        link
    });
    assert_eq!(victim.ask("w"), "worked");
    let [first, second] = tools;
    assert_eq!(first.counts(links[0]), hits(1000));
    first.session.close();
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(second.counts(links[1]), hits(2000));
    victim.end();
}

#[test]
fn a_pid_filter_holds() {
    let world = World::new();
    let mut victim = world.victim();
    let mut other = world.victim();
    let tool = world.session();
    let link = tool.link(&built().victim, "work", LinkKind::Uprobe, victim.pid());
    tool.session.publish();
    assert_eq!(other.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(0));
    assert_eq!(victim.ask("w"), "worked");
    // Not the child of the process either.
    assert_eq!(victim.ask("f"), "forked 0");
    assert_eq!(tool.counts(link), hits(1000));
    victim.end();
    other.end();
}

#[test]
fn children_by_fork_and_spawn_are_traced() {
    let world = World::new();
    let mut victim = world.victim();
    let tool = world.session();
    let link = tool.work();
    tool.session.publish();
    assert_eq!(victim.ask("f"), "forked 0");
    assert_eq!(tool.counts(link), hits(1000));
    assert_eq!(victim.ask("s"), "spawned 0");
    assert_eq!(tool.counts(link), hits(2000));
    // A child that lives on follows changes like its parent.
    victim.tell("F");
    until("the child joins", || tool.agents().len() == 2);
    tool.session.remove(link).unwrap();
    tool.session.publish();
    assert!(tool.agents().iter().all(|(_, hooks, _)| *hooks == 0));
    let again = tool.work();
    tool.session.publish();
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(again), hits(1000));
    drop(victim.commands.take());
    assert_eq!(victim.answer(), "child 0");
    victim.end();
}

#[test]
fn probes_are_in_place_before_a_librarys_constructor() {
    let world = World::new();
    let mut victim = world.victim();
    let tool = world.session();
    let link = tool.link(&built().plugin, "plugin_work", LinkKind::Uprobe, -1);
    tool.session.publish();
    // The loader is hooked after the first round, so before the end of a second.
    tool.session.publish();
    for round in 1..=20 {
        assert_eq!(victim.ask("o"), "opened 1");
        assert_eq!(tool.counts(link), hits(10 * round));
    }
    victim.end();
}

#[test]
fn a_program_ends_with_its_last_thread() {
    let world = World::new();
    let tool = world.session();
    let link = tool.work();
    for _ in 0..2 {
        let mut victim = world.victim();
        victim.tell("x");
        until("it ends", || victim.child.try_wait().unwrap().is_some());
        victim.end();
    }
    assert_eq!(tool.counts(link), hits(2000));
    tool.session.close();
    // And without a session.
    let mut victim = world.victim();
    victim.tell("x");
    until("it ends", || victim.child.try_wait().unwrap().is_some());
    victim.end();
}

#[test]
fn programs_that_must_be_alone_are() {
    let world = World::new();
    let tool = world.session();
    tool.work();
    for words in [
        "unshare -Ur true",
        "unshare -Urm --fork true",
        "setpriv --reuid 65534 --regid 65534 --clear-groups true",
        "setpriv --reuid 65534 --regid 65534 --init-groups --bounding-set -all true",
    ] {
        let mut words = words.split(' ');
        let output = world
            .command(&Path::new("/usr/bin").join(words.next().unwrap()))
            .args(words)
            // The last program of each may not read the library, and says so.
            .env("LD_BIND_NOW", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Only root may do what these victims do.
/// Whether a test that needs root can run; in CI it must.
#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn is_root_or_says_so() -> bool {
    // SAFETY: geteuid has no arguments.
    let root = unsafe { libc::geteuid() == 0 };
    if !root {
        assert!(
            std::env::var_os("CI").is_none(),
            "needs root; in CI nothing is left out"
        );
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn a_locked_process_is_not_filled_with_a_sparse_session() {
    if !is_root_or_says_so() {
        return;
    }
    let world = World::new();
    let mut victim = world.victim();
    assert_eq!(victim.ask("m"), "locked 0");
    let tool = world.session();
    let link = tool.work();
    tool.session.publish();
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(1000));
    let data = std::fs::metadata(tool.session.path().join("data")).unwrap();
    assert!(data.blocks() * 512 < 1 << 20, "{} blocks", data.blocks());
    victim.end();
}

#[test]
fn a_process_that_changes_its_user_or_root_is_followed() {
    if !is_root_or_says_so() {
        return;
    }
    for change in ["u", "r"] {
        let world = World::new();
        let tool = world.session();
        let link = tool.work();
        let mut victim = world.victim();
        assert_eq!(victim.ask("w"), "worked");
        assert_eq!(victim.ask(change), "changed 0");
        assert_eq!(victim.ask("w"), "worked");
        assert_eq!(tool.counts(link), hits(2000));
        let another = tool.work();
        tool.session.publish();
        assert_eq!(victim.ask("w"), "worked");
        assert_eq!(tool.counts(another), hits(1000));
        tool.session.close();
        assert_eq!(victim.ask("w"), "worked");
        victim.end();
    }
}

#[test]
fn a_process_that_has_lost_sight_of_proc_can_still_be_left() {
    if !is_root_or_says_so() {
        return;
    }
    let world = World::new();
    let tool = world.session();
    let link = tool.work();
    let mut victim = world.victim();
    // The second starts the thread anew, in the new root.
    assert_eq!(victim.ask("r"), "changed 0");
    assert_eq!(victim.ask("u"), "changed 0");
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(1000));
    let refused = tool.work();
    tool.session.publish();
    let (_, hooks, reason) = tool.agents().remove(0);
    assert_eq!(
        (hooks, reason.as_str()),
        (1, "this process cannot see its /proc any more")
    );
    tool.session.remove(refused).unwrap();
    tool.session.remove(link).unwrap();
    tool.session.publish();
    assert_eq!(tool.agents(), [(victim.pid(), 0, String::new())]);
    assert_eq!(victim.ask("w"), "worked");
    victim.end();
}

/// Started by the test below as a process of its own: a tool with a link and
/// a sweeper that then does nothing.
#[test]
fn child_tool() {
    let Some(root) = std::env::var_os("BPFTIME_TEST_ROOT").map(PathBuf::from) else {
        return;
    };
    let dirs = Dirs {
        state: root.join("state"),
        sessions: root.join("sessions"),
    };
    let tool = Tool::new(&dirs);
    let victim = PathBuf::from(std::env::var_os("BPFTIME_TEST_VICTIM").unwrap());
    tool.link(&victim, "work", LinkKind::Uprobe, -1);
    spawn_sweeper(&tool.session).unwrap();
    tool.session.publish();
    std::fs::write(root.join("ready"), "").unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_tools_probes_are_gone_within_a_second() {
    let world = World::new();
    let mut victim = world.victim();
    let roster = Roster::open(&world.dirs).unwrap();
    let hooks = || {
        let members = roster.members();
        let agents = members.iter().filter(|m| m.role == Role::Agent);
        agents.map(|m| m.hooks).sum::<u32>()
    };
    for _ in 0..5 {
        let mut tool = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_tool"])
            .env("BPFTIME_TEST_ROOT", world.root.path())
            .env("BPFTIME_TEST_VICTIM", &built().victim)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let ready = world.root.path().join("ready");
        until("the tool is ready", || ready.exists());
        std::fs::remove_file(ready).unwrap();
        assert_eq!(hooks(), 1);
        victim.tell("w");
        tool.kill().unwrap();
        tool.wait().unwrap();
        let killed = Instant::now();
        until("the hook goes", || hooks() == 0);
        assert!(killed.elapsed() < Duration::from_secs(1));
        assert_eq!(victim.answer(), "worked");
        until("the files go", || !world.dirs.sessions.exists());
    }
    victim.end();
}

#[test]
fn killed_targets_leave_nothing_and_stop_nobody() {
    let world = World::new();
    let tool = world.session();
    let link = tool.work();
    for round in 0..20u64 {
        let mut victim = world.victim();
        victim.tell("wwwwwwww");
        if round % 2 == 0 {
            assert_eq!(victim.answer(), "worked");
            // What it counts after that it takes with it.
            tool.session.publish();
        }
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        let start = Instant::now();
        tool.session.publish();
        assert!(start.elapsed() < Duration::from_millis(900));
    }
    assert_eq!(tool.agents(), []);
    assert!(tool.counts(link).hits >= 10_000);
    tool.session.close();
    assert!(!world.dirs.sessions.exists());
}

#[test]
fn it_keeps_no_fd_open() {
    let world = World::new();
    let tool = world.session();
    tool.work();
    let victim = world.victim();
    until("it joins", || {
        tool.agents().iter().any(|(_, hooks, _)| *hooks == 1)
    });
    let fds = std::fs::read_dir(format!("/proc/{}/fd", victim.pid())).unwrap();
    let own = |path: &PathBuf| path.starts_with(world.root.path());
    let ours: Vec<PathBuf> = fds
        .flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(own)
        .collect();
    assert_eq!(ours, Vec::<PathBuf>::new());
    victim.end();
}

#[test]
fn detach_leaves_and_the_process_runs_on() {
    let world = World::new();
    let mut victim = world.victim();
    let tool = world.session();
    let link = tool.work();
    tool.session.publish();
    assert_eq!(victim.ask("w"), "worked");
    let roster = tool.session.roster();
    assert!(roster.detach(victim.pid(), Duration::from_secs(10)));
    assert_eq!(tool.agents(), []);
    assert_eq!(victim.ask("w"), "worked");
    assert_eq!(tool.counts(link), hits(1000));
    victim.end();
}

#[test]
fn a_refused_probe_says_why() {
    let world = World::new();
    let victim = world.victim();
    let tool = world.session();
    let meta = std::fs::metadata(&built().victim).unwrap();
    // The ELF header's page is not text.
    let bytes = std::fs::read(&built().victim).unwrap();
    let elf = ElfFile::parse(&bytes).unwrap();
    let start = elf
        .offset_of_address(elf.function_address("main").unwrap())
        .unwrap();
    tool.session
        .create_link(&LinkSpec {
            kind: LinkKind::Uretprobe,
            prog: tool.program,
            dev: meta.dev(),
            ino: meta.ino(),
            path: "victim".into(),
            pid: -1,
            enabled: true,
            places: vec![Place {
                offset: start + 1,
                cookie: 0,
                ref_ctr_offset: 0,
            }],
        })
        .unwrap();
    tool.session.publish();
    let agents = tool.agents();
    assert_eq!((agents[0].0, agents[0].1), (victim.pid(), 0));
    assert!(agents[0].2.contains("cannot be probed"), "{}", agents[0].2);
    victim.end();
}

#[test]
fn a_back_end_that_is_not_there_says_so() {
    let world = World::new();
    let tool = world.session();
    let link = tool.work();
    for (name, reason) in [
        (
            "firda",
            "hook back end firda: there are `native` and `frida`",
        ),
        #[cfg(not(feature = "frida"))]
        ("frida", "this build is without it (cargo feature `frida`"),
    ] {
        let mut victim = world.victim_hooked_by(name);
        assert_eq!(victim.ask("w"), "worked");
        tool.session.publish();
        let (pid, hooks, said) = tool.agents().remove(0);
        assert_eq!((pid, hooks), (victim.pid(), 0));
        assert!(said.contains(reason), "{said}");
        victim.end();
    }
    assert_eq!(tool.counts(link), hits(0));
}
