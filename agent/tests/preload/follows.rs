//! Who has probes, and when: programs started before and after tools, children,
//! libraries.

use std::path::{Path, PathBuf};

use runtime::session::LinkKind;

use crate::world::*;

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
