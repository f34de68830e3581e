//! The ends of tools, of targets and of the agent.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::session::{Dirs, LinkKind, Role, Roster, spawn_sweeper};

use crate::world::*;

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
            .args(["--exact", "ends::child_tool"])
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
