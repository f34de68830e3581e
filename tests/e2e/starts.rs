//! What the start of a tool does, so that it takes little time.

use bpftime_tests::World;

/// Where a process has threads the kernel waits for a grace period of RCU each
/// time its table of fds grows; so it has room for ours from the beginning.
#[test]
fn tables_of_fds_are_large_enough_from_the_beginning() {
    let world = World::new();
    // A child that a wrapper forks has a new table.
    let script = "grep FDSize /proc/self/status; true";
    let exit = world.run(&["load", "sh", "-c", script]);
    assert_eq!(
        (exit.code, &*exit.stdout),
        (0, "FDSize:\t1024\n"),
        "{exit:?}"
    );
}
