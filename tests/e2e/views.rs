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
