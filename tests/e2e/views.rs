//! What `status` and `doctor` show.

use bpftime_tests::World;

#[test]
fn status_without_any_session() {
    let world = World::new();
    let status = world.run(&["status"]);
    assert_eq!((status.code, status.stderr.as_str()), (0, ""), "{status:?}");
    assert!(
        status.stdout.to_lowercase().contains("no session"),
        "{status:?}"
    );
}

#[test]
fn status_shows_sessions_links_targets_and_counts() {
    let world = World::new();
    let mut counter = world.fixture_tool(
        "counter",
        &["-m", "0"],
        &world.fixture("puppet"),
        "puppet_step",
    );
    let mut puppet = world.puppet();
    assert_eq!(puppet.ask("call 1234"), "ok");
    assert_eq!(counter.ask("total"), "1234");
    let status = world.run(&["status"]);
    assert_eq!((status.code, status.stderr.as_str()), (0, ""), "{status:?}");
    for fact in [
        &counter.pid().to_string(),
        &puppet.pid().to_string(),
        "counter",
        "on_entry",
        "puppet",
        "1234",
    ] {
        assert!(
            status.stdout.contains(fact),
            "no {fact} in\n{}",
            status.stdout
        );
    }
}

#[test]
fn doctor_speaks_of_each_ability() {
    let world = World::new();
    let doctor = world.run(&["doctor"]);
    assert_eq!((doctor.code, doctor.stderr.as_str()), (0, ""), "{doctor:?}");
    for fact in ["attach", "BTF", "kernel BPF", "perf events", "/dev/shm"] {
        assert!(
            doctor.stdout.to_lowercase().contains(&fact.to_lowercase()),
            "no {fact} in\n{}",
            doctor.stdout
        );
    }
}

/// A process without the address space for a session runs on, and the tool's
/// user can see why it is not traced.
#[test]
fn a_target_without_address_space_is_named() {
    let world = World::new();
    let tgt = world.fixture("tgt");
    let mut counter = world.fixture_tool("counter", &["-m", "0"], &tgt, "tgt_add");
    let script = format!("ulimit -v 400000; exec {} 3 0 wait", tgt.display());
    let mut target = world.start(&["sh", "-c", &script].map(std::ffi::OsStr::new));
    let pid = target.pid().to_string();
    assert_eq!(target.line(), format!("pid {pid}"));
    let status = world.run(&["status"]);
    let row: Vec<&str> = status
        .stdout
        .lines()
        .skip_while(|line| *line != "targets")
        .find(|line| line.split_whitespace().next() == Some(&pid))
        .expect("the target's row")
        .split_whitespace()
        .collect();
    assert_eq!(row[1..4], ["tgt", "0", "1"], "{status:?}");
    assert!(status.stdout.contains("out of memory"), "{status:?}");
    target.tell("go");
    let exit = target.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    assert_eq!(counter.ask("total"), "0");
}

/// Code that valgrind emulates cannot be changed under it: no agent there.
#[test]
fn a_target_under_valgrind_runs_on() {
    let world = World::new();
    let tgt = world.fixture("tgt");
    let mut counter = world.fixture_tool("counter", &["-m", "0"], &tgt, "tgt_add");
    let command = ["valgrind".as_ref(), "-q".as_ref(), tgt.as_os_str()];
    let arguments = ["3", "0", "wait"].map(std::ffi::OsStr::new);
    let mut target = world.start(&[&command[..], &arguments].concat());
    assert_eq!(target.line(), format!("pid {}", target.pid()));
    target.tell("go");
    assert_eq!(target.finish().code, 0);
    assert_eq!(counter.ask("total"), "0");
}
