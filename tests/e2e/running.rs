//! Processes that were not started for it: tools reach them when they are
//! attached to, at any time, and they are as before when they are left.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use bpftime_tests::{Program, World, wait};

/// What a process holds: its mappings without their contents, and fds.
#[derive(Debug, PartialEq, Eq)]
struct Holdings {
    mappings: BTreeSet<String>,
    fds: usize,
}

impl Holdings {
    /// Of a process of one thread, when the agent's is gone.
    fn of(pid: i32) -> Holdings {
        let task = format!("/proc/{pid}/task");
        let alone = || fs::read_dir(&task).expect("task").count() == 1;
        wait::until_true("one thread", wait::LONG, alone);
        let entries = |name: &str| {
            fs::read_dir(format!("/proc/{pid}/{name}"))
                .expect(name)
                .count()
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
        // A session's files have another name each time.
        let sessions = |line: &&str| !line.contains("/dev/shm/");
        Holdings {
            mappings: maps.lines().filter(sessions).map(str::to_owned).collect(),
            fds: entries("fd"),
        }
    }
}

fn bpftime(world: &World, command: &str, pid: i32) {
    let exit = world.run(&[command, &pid.to_string()]);
    assert_eq!(
        (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
        (0, "", ""),
        "{command}"
    );
}

fn quit(mut puppet: Program) {
    puppet.tell("quit");
    let exit = puppet.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
}

/// Counts are exact from the moment `attach` returns to that at which
/// `detach` begins, and nothing grows.
#[test]
fn attached_to_and_left_again_and_again() {
    let world = World::new();
    let path = world.fixture("puppet");
    let mut counter = world.fixture_tool("counter", &[], &path, "puppet_step");
    let mut puppet = world.bare_puppet();
    let pid = puppet.pid();
    let mut before = None;
    let mut calls = 0;
    for round in 0..30 {
        bpftime(&world, "attach", pid);
        assert_eq!(puppet.ask("call 1000"), "ok");
        calls += 1000;
        assert_eq!(counter.ask("total"), calls.to_string(), "{round}");
        bpftime(&world, "detach", pid);
        assert_eq!(puppet.ask("call 100"), "ok");
        assert_eq!(counter.ask("total"), calls.to_string(), "{round}");
        // By then all that is made once is made.
        if round == 3 {
            before = Some(Holdings::of(pid));
        }
    }
    assert_eq!(Some(Holdings::of(pid)), before);
    quit(puppet);
}

#[test]
fn sixty_four_busy_threads() {
    let world = World::new();
    let path = world.fixture("puppet");
    let mut counter = world.fixture_tool("counter", &[], &path, "puppet_step");
    let mut puppet = world.bare_puppet();
    puppet.tell("threads 64 2000000");
    bpftime(&world, "attach", puppet.pid());
    bpftime(&world, "detach", puppet.pid());
    bpftime(&world, "attach", puppet.pid());
    assert_eq!(puppet.line(), "ok");
    let begun: u64 = counter.ask("total").parse().expect("a number");
    assert!(begun <= 64 * 2_000_000, "{begun}");
    assert_eq!(puppet.ask("threads 64 100"), "ok");
    assert_eq!(counter.ask("total"), (begun + 6400).to_string());
    quit(puppet);
}

/// A debugger stops at a probed function, shows the frames of its callers, and
/// lets go; the probe counts on.
#[test]
fn a_debugger_comes_later() {
    let world = World::new();
    let path = world.fixture("puppet");
    let mut counter = world.fixture_tool("counter", &[], &path, "puppet_step");
    let mut puppet = world.bare_puppet();
    bpftime(&world, "attach", puppet.pid());
    assert_eq!(puppet.ask("call 10"), "ok");
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-p", &puppet.pid().to_string()]);
    for command in [
        "set debuginfod enabled off",
        "break puppet_step",
        "continue",
        "backtrace",
        "delete",
        "detach",
    ] {
        gdb.args(["-ex", command]);
    }
    let mut gdb = Program::on_pipes(gdb);
    gdb.lines_until(|line| line.starts_with("Breakpoint 1 at"));
    puppet.tell("call 10");
    let exit = gdb.finish();
    assert_eq!(puppet.line(), "ok");
    let frames: Vec<&str> = exit
        .stdout
        .lines()
        .filter(|line| line.starts_with('#'))
        .collect();
    assert!(frames[0].contains(" puppet_step "), "{}", exit.stdout);
    assert!(
        frames.last().is_some_and(|frame| frame.contains(" main ")),
        "{}",
        exit.stdout
    );
    assert_eq!(counter.ask("total"), "20");
    assert_eq!(puppet.ask("call 10"), "ok");
    assert_eq!(counter.ask("total"), "30");
    bpftime(&world, "detach", puppet.pid());
    assert_eq!(puppet.ask("call 10"), "ok");
    assert_eq!(counter.ask("total"), "30");
    quit(puppet);
}
