//! Processes in containers: they see other files, other process ids and other
//! users than the tools, and no library or directory of ours.

use std::fs;
use std::path::{Path, PathBuf};

use bpftime_tests::{Counted, Mode, Program, World, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// All kinds of namespaces, another root, a new /proc: as an ordinary user runs
/// a container.
const ROOTLESS: &str = "umprf";

/// A directory that can be a root: puppet and what it loads.
fn root(world: &World) -> PathBuf {
    let root = world.home().join("root");
    if root.exists() {
        return root;
    }
    for file in [
        "lib64/ld-linux-x86-64.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/x86_64-linux-gnu/libgcc_s.so.1",
    ] {
        let inside = root.join(file);
        fs::create_dir_all(inside.parent().expect("a directory")).expect("mkdir");
        fs::copy(Path::new("/").join(file), inside).expect("copy");
    }
    fs::create_dir(root.join("proc")).expect("mkdir");
    fs::copy(world.fixture("puppet"), root.join("puppet")).expect("copy");
    root
}

/// A puppet in a container, and its process id outside.
struct Contained {
    puppet: Program,
    pid: i32,
}

impl Contained {
    fn start(world: &World) -> Contained {
        let root = root(world);
        let words = [
            world.fixture("contain"),
            ROOTLESS.into(),
            root,
            "/puppet".into(),
        ];
        let mut puppet = Program::on_pipes(world.plain(&words));
        assert_eq!(puppet.line(), "pid 1");
        let outer = puppet.pid();
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
        let children = children.expect("its child");
        let pid = children.trim().parse().expect("one child");
        Contained { puppet, pid }
    }

    /// What it has open and mapped, when it has one thread.
    fn holdings(&self) -> (Vec<String>, Vec<String>) {
        let of = format!("/proc/{}", self.pid);
        let alone = || fs::read_dir(format!("{of}/task")).expect("task").count() == 1;
        wait::until_true("one thread", wait::LONG, alone);
        let fds = fs::read_dir(format!("{of}/fd")).expect("fd");
        let mut fds: Vec<String> = fds
            .map(|fd| fd.expect("fd").file_name().to_string_lossy().into_owned())
            .collect();
        fds.sort();
        let maps = fs::read_to_string(format!("{of}/maps")).expect("maps");
        (fds, maps.lines().map(str::to_owned).collect())
    }

    fn end(mut self) {
        self.puppet.tell("quit");
        let exit = self.puppet.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    }
}

fn bpftime(world: &World, words: &[&str]) {
    let exit = world.run(words);
    let seen = (exit.code, exit.stdout.as_str(), exit.stderr.as_str());
    assert_eq!(seen, (0, "", ""), "{words:?}");
}

fn attach(world: &World, pid: i32) {
    if world.mode() == Mode::Bpftime {
        bpftime(world, &["attach", &pid.to_string()]);
    }
}

/// The same for the kernel and for us: calls of a function of the container's
/// own C library, for its process id outside, and of its program in threads and
/// children.
#[test]
fn counts_as_the_kernel_does() {
    let mut told = Vec::new();
    for world in [World::kernel(), Some(World::new())].into_iter().flatten() {
        let mut contained = Contained::start(&world);
        let root = root(&world);
        let pid = contained.pid.to_string();
        let libc = root.join("lib/x86_64-linux-gnu/libc.so.6");
        let options = ["-p", &pid, "-f", &pid];
        let mut puts = world.fixture_tool("counter", &options, &libc, "puts");
        attach(&world, contained.pid);
        let mut steps = world.fixture_tool("counter", &[], &root.join("puppet"), "puppet_step");
        for line in [
            "call 10",
            "threads 4 10",
            "fork 10",
            "daemon 10",
            "threads 8 1",
        ] {
            assert_eq!(contained.puppet.ask(line), "ok", "{line}");
        }
        let (puts, steps) = (Counted::by(&mut puts), Counted::by(&mut steps));
        assert_eq!(puts.ways().map(|(_, count)| count), [5; 4]);
        assert_eq!(steps.ways().map(|(_, count)| count), [78; 4]);
        told.push(steps.text());
        contained.end();
    }
    assert!(told.iter().all(|text| *text == told[0]), "{told:?}");
}

/// Threads have the ids that they have outside.
#[test]
fn ids_are_those_outside() {
    let world = World::new();
    let mut contained = Contained::start(&world);
    attach(&world, contained.pid);
    let program = root(&world).join("puppet");
    let mut tool = world.fixture_tool("ringtrace", &[], &program, "puppet_step");
    assert_eq!(contained.puppet.ask("call 1"), "ok");
    let here = format!("pid={0} tid={0} ns=", contained.pid);
    let line = tool.line();
    assert!(line.starts_with(&here), "{line}");
    assert_eq!(contained.puppet.ask("threads 2 1"), "ok");
    let mut tids = vec![contained.pid];
    for _ in 0..2 {
        let line = tool.line();
        let rest = line.strip_prefix(&format!("pid={} tid=", contained.pid));
        let tid = rest.and_then(|rest| rest.split(' ').next()?.parse().ok());
        tids.push(tid.expect("a thread id"));
    }
    tids.sort_unstable();
    tids.dedup();
    // Inside they are below 100.
    assert!(tids.len() == 3 && tids[0] > 100, "{tids:?}");
    contained.end();
}

/// Two fds are kept, and nothing when it is left.
#[test]
fn left_as_it_was() {
    let world = World::new();
    let program = root(&world).join("puppet");
    let mut contained = Contained::start(&world);
    let (before, _) = contained.holdings();
    let mut counter = world.fixture_tool("counter", &[], &program, "puppet_step");
    let mut settled = None;
    let pid = contained.pid.to_string();
    for round in 1..=5u64 {
        bpftime(&world, &["attach", &pid]);
        assert_eq!(contained.puppet.ask("call 10"), "ok");
        assert_eq!(counter.ask("total"), (round * 10).to_string());
        // Its agent opens others for moments.
        let fds = || fs::read_dir(format!("/proc/{pid}/fd")).expect("fd").count();
        let two_more = || fds() == before.len() + 2;
        wait::until_true("two more fds", wait::LONG, two_more);
        bpftime(&world, &["detach", &pid]);
        assert_eq!(contained.puppet.ask("call 5"), "ok");
        assert_eq!(counter.ask("total"), (round * 10).to_string());
        let (fds, maps) = contained.holdings();
        assert_eq!(fds, before);
        // By then all that is made once is made.
        if round > 2 {
            assert_eq!(*settled.get_or_insert_with(|| maps.clone()), maps);
        }
    }
    contained.end();
}

/// Whoever closes all files loses probes, not its life; it can be attached to again.
#[test]
fn closes_everything() {
    let world = World::new();
    let program = root(&world).join("puppet");
    let mut contained = Contained::start(&world);
    let pid = contained.pid.to_string();
    let mut counter = world.fixture_tool("counter", &[], &program, "puppet_step");
    bpftime(&world, &["attach", &pid]);
    assert_eq!(contained.puppet.ask("call 10"), "ok");
    assert_eq!(contained.puppet.ask("shut"), "ok");
    let why = "closed the files by which its agent reaches tools";
    let told = || world.run(&["status"]).stdout.contains(why);
    wait::until_true("the roster says so", wait::LONG, told);
    assert_eq!(contained.puppet.ask("call 10"), "ok");
    assert_eq!(counter.ask("total"), "10");
    bpftime(&world, &["attach", &pid]);
    assert_eq!(contained.puppet.ask("call 7"), "ok");
    assert_eq!(counter.ask("total"), "17");
    contained.end();
}

/// The first process of a container takes all others with it: nothing is left
/// of them.
#[test]
fn killed() {
    let world = World::new();
    let program = root(&world).join("puppet");
    for _ in 0..3 {
        let mut contained = Contained::start(&world);
        let mut counter = world.fixture_tool("counter", &[], &program, "puppet_step");
        attach(&world, contained.pid);
        contained.puppet.tell("threads 4 100000000");
        let counts = || counter.ask("total") != "0";
        wait::until_true("calls", wait::LONG, counts);
        kill(Pid::from_raw(contained.pid), Signal::SIGKILL).expect("kill");
        let exit = contained.puppet.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (128 + 9, ""));
        let gone = || world.run(&["status"]).stdout.contains("no targets");
        wait::until_true("nobody in the roster", wait::LONG, gone);
        drop(counter);
        world.expect_nothing_left();
    }
}

/// Children are followed, and those that live shortly leave nothing.
#[test]
fn short_lived_children() {
    let world = World::new();
    let program = root(&world).join("puppet");
    let mut contained = Contained::start(&world);
    attach(&world, contained.pid);
    let mut counter = world.fixture_tool("counter", &[], &program, "puppet_step");
    for _ in 0..10 {
        assert_eq!(contained.puppet.ask("fork 10"), "ok");
    }
    assert_eq!(counter.ask("total"), "100");
    let marks = fs::read_dir(world.sessions()).expect("the sessions");
    let marks = marks.filter(|mark| {
        let name = mark.as_ref().expect("a mark").file_name();
        name.to_string_lossy().starts_with("guest-")
    });
    // Some may have been slow.
    assert!(marks.count() < 5);
    drop(counter);
    bpftime(&world, &["detach", &contained.pid.to_string()]);
    contained.end();
}

/// A session that begins after the last one has ended is followed, too.
#[test]
fn sessions_come_and_go() {
    let world = World::new();
    let program = root(&world).join("puppet");
    let mut contained = Contained::start(&world);
    attach(&world, contained.pid);
    for calls in [10, 20, 30] {
        let mut counter = world.fixture_tool("counter", &[], &program, "puppet_step");
        assert_eq!(contained.puppet.ask(&format!("call {calls}")), "ok");
        assert_eq!(counter.ask("total"), calls.to_string());
        counter.tell("quit");
        assert_eq!(counter.finish().code, 0);
    }
    bpftime(&world, &["detach", &contained.pid.to_string()]);
    contained.end();
}
