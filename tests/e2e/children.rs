//! Children of a target are targets, however they come to life.

use bpftime_tests::World;

/// Plays `lines`, of which each makes the calls that stand beside it.
fn plays(lines: &[(&str, u64)]) {
    let stories = [World::kernel(), Some(World::new())];
    for world in stories.into_iter().flatten() {
        let path = world.fixture("puppet");
        let mut counter = world.fixture_tool("counter", &[], &path, "puppet_step");
        let mut puppet = world.puppet();
        let mut calls = 0;
        for (line, more) in lines {
            assert_eq!(puppet.ask(line), "ok", "{line}");
            calls += more;
            assert_eq!(
                counter.ask("total"),
                calls.to_string(),
                "{line} {:?}",
                world.mode()
            );
        }
        puppet.tell("quit");
        let exit = puppet.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    }
}

#[test]
fn by_fork() {
    plays(&[
        ("call 1", 1),
        ("fork 10", 10),
        ("fork 10", 10),
        ("call 5", 5),
    ]);
}

#[test]
fn by_vfork_and_exec() {
    plays(&[("call 1", 1), ("vfork 10", 10), ("call 5", 5)]);
}

#[test]
fn by_posix_spawn() {
    plays(&[("call 1", 1), ("spawn 10", 10), ("call 5", 5)]);
}

#[test]
fn by_exec_in_place() {
    plays(&[
        ("call 1", 1),
        ("exec 10", 10),
        ("call 5", 5),
        ("fork 2", 2),
        ("spawn 3", 3),
    ]);
}

#[test]
fn a_daemon_that_closes_every_fd() {
    plays(&[("daemon 10", 10), ("call 5", 5)]);
}

#[test]
fn in_threads() {
    plays(&[("threads 8 1000", 8000), ("threads 8 1000", 8000)]);
}

#[test]
fn a_shell_starts_them() {
    let world = World::new();
    let path = world.fixture("tgt");
    let mut counter = world.fixture_tool("counter", &[], &path, "tgt_add");
    let script = format!(
        "for i in 1 2 3; do {0} 10; done; {0} 5 & wait; exec {0} 7",
        path.display()
    );
    let shell = world.start(&["sh", "-c", &script]).finish();
    assert_eq!((shell.code, shell.stderr.as_str()), (0, ""));
    assert_eq!(counter.ask("total"), "42");
}
