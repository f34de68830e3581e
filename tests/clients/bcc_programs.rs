//! Programs that use bcc's Python library by themselves.

use bpftime_tests::{Program, World};

use crate::table::{both, expand, tool_command};

/// Starts a script on `rounds`, which has been started when it prints `ready`.
fn start(world: &World, script: &str) -> Program {
    world.fixture("rounds");
    std::fs::write(world.home().join("script.py"), script).expect("a script in the user's home");
    let words = ["/usr/bin/python3", "{home}/script.py", "{home}/rounds"];
    let mut tool = Program::on_terminal(tool_command(world, &expand(world, &words)));
    tool.lines_until(|line| line == "ready");
    tool
}

#[test]
fn tables_of_every_kind() {
    both(|world| {
        let mut tool = start(world, include_str!("scripts/tables.py"));
        let work = world.start(&expand(
            world,
            &["taskset", "-c", "0", "{home}/rounds", "10"],
        ));
        assert_eq!(work.finish().code, 0);
        tool.tell("show");
        let shown = tool.lines_until(|line| line == "shown");
        // Not how long the bars of histograms are.
        let rows: Vec<&str> = shown
            .iter()
            .map(|line| line.split('|').next().unwrap_or_default().trim())
            .collect();
        assert_eq!(rows, TABLES, "{:?}", world.mode());
        tool.kill();
    });
}

const TABLES: &[&str] = &[
    "event 0 0 round-0",
    "event 1 2 round-1",
    "event 2 4 round-2",
    "record 8 16 round-8",
    "record 9 18 round-9",
    "hash 0:5 1:5",
    "percpu_hash 0:10 1:10",
    "array 0:5 1:5 2:0 3:50",
    "percpu_array 0:5 1:5",
    "lru 0:0 1:2 2:4 3:6 4:8 5:10 6:12 7:14 8:16 9:18",
    "lpm 0/0:8 4/32:1 6/31:1",
    "inner 0:0 1:2 2:4 3:6 4:8 5:10 6:12 7:14 8:16 9:18",
    "queue 0 1 2 3",
    "stack 6 7 8 9",
    "thirds        : count     distribution",
    "0          : 4",
    "1          : 3",
    "2          : 3",
    "twice               : count     distribution",
    "0 -> 1          : 1",
    "2 -> 3          : 1",
    "4 -> 7          : 2",
    "8 -> 15         : 4",
    "16 -> 31         : 2",
    "batch 0:5 1:5",
    "cleared 0:0 1:0 2:0 3:0",
    "shown",
];
