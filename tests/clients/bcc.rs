//! bcc's Python tools.

use bpftime_tests::Program;

use crate::table::{Row, behind, both, expand, tool_command};

#[test]
fn funccount_counts_functions_by_a_pattern() {
    Row {
        tool: &["funccount-bpfcc", "{home}/rounds:rounds_*"],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "500"],
        lines: 0,
        row: |line| line.starts_with("rounds_").then(|| behind(line, 0)),
        rows: &["rounds_add 500", "rounds_alloc 550", "rounds_leak 50"],
    }
    .check();
}

#[test]
fn trace_shows_arguments() {
    let probe = "{home}/rounds:rounds_add(int a, char *s, long c) \"%d %s %d\", a, s, c";
    Row {
        tool: &["trace-bpfcc", probe],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "5"],
        lines: 5,
        row: |line| line.contains("round-").then(|| behind(line, 2)),
        rows: &[
            "rounds rounds_add 0 round-0 0",
            "rounds rounds_add 1 round-1 2",
            "rounds rounds_add 2 round-2 4",
            "rounds rounds_add 3 round-3 6",
            "rounds rounds_add 4 round-4 8",
        ],
    }
    .check();
}

#[test]
fn trace_shows_static_probes() {
    let probe = "u:{home}/rounds:plain \"%d %s\", arg1, arg2";
    Row {
        tool: &["trace-bpfcc", probe],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "2"],
        lines: 2,
        row: |line| line.contains("round-").then(|| behind(line, 2)),
        rows: &["rounds plain 0 round-0", "rounds plain 1 round-1"],
    }
    .check();
}

#[test]
fn argdist_counts_arguments_and_results() {
    both(|world| {
        world.fixture("rounds");
        let arguments = "p:{home}/rounds:rounds_add(int a, char *s, long c):int:a&1";
        let results = "r:{home}/rounds:rounds_add():int:$retval>20";
        let words = [
            "argdist-bpfcc",
            "-c",
            "-i",
            "1",
            "-C",
            arguments,
            "-C",
            results,
        ];
        let mut tool = Program::on_terminal(tool_command(world, &expand(world, &words)));
        tool.line();
        let work = world.start(&expand(world, &["{home}/rounds", "9"]));
        assert_eq!(work.finish().stdout, "sum 171 right\n");
        // What is shown between two times of day.
        let is_time = |line: &str| line.starts_with('[');
        tool.lines_until(is_time);
        let block = tool.lines_until(is_time);
        let mut rows: Vec<String> = block.iter().map(|line| behind(line, 0)).collect();
        rows.retain(|row| row.contains(" = "));
        rows.sort();
        let expected = [
            "4 $retval>20 = 1",
            "4 a&1 = 1",
            "5 $retval>20 = 0",
            "5 a&1 = 0",
        ];
        assert_eq!(rows, expected, "{:?}", world.mode());
        tool.kill();
    });
}
