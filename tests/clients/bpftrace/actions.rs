//! What bpftrace's programs do beside counting: signals, commands, files.

use super::{lines, told, traced};
use crate::table::both;

/// The program goes on to its end before the signal comes.
#[test]
fn bpftrace_sends_signals() {
    let script = "uprobe:{home}/rounds:rounds_leak { signal(\"KILL\"); @killed = count(); } \
                  uprobe:{home}/rounds:rounds_add { @all = count(); }";
    both(|world| {
        world.fixture("rounds");
        let shell = "{home}/rounds 20; test $? = 137";
        let exit = traced(world, &["--unsafe", "-e", script], &["sh", "-c", shell]);
        let mut shown = lines(world, &exit.stdout);
        shown.retain(|line| line.starts_with('@'));
        shown.sort();
        assert_eq!(shown, ["@all: 1", "@killed: 1"], "{:?}", world.mode());
    });
}

#[test]
fn bpftrace_runs_commands_and_shows_files() {
    let script = "BEGIN { system(\"echo %s %d\", \"said\", 5); cat(\"/proc/sys/kernel/ostype\"); \
                  exit(); }";
    both(|world| {
        let exit = told(world, &["--unsafe", "-e", script]);
        let mut shown = lines(world, &exit.stdout);
        shown.sort();
        let expected = ["Attaching 1 probe...", "Linux", "said 5"];
        assert_eq!(shown, expected, "{:?}: {exit:?}", world.mode());
    });
}
