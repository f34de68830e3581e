//! bcc's tools for functions of the user's choice, with their options:
//! `funccount`, `trace`, `funclatency`, `funcslower`.

use bpftime_tests::{Mode, Program};

use crate::table::{Row, behind, on_process, on_rounds};

#[test]
fn funccount_takes_regular_expressions() {
    Row {
        tool: &[
            "funccount-bpfcc",
            "-r",
            "{home}/rounds:^rounds_(add|alloc)$",
        ],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "20"],
        lines: 0,
        row: |line| line.starts_with("rounds_").then(|| behind(line, 0)),
        rows: &["rounds_add 20", "rounds_alloc 22"],
    }
    .check();
}

/// What a tool has shown when it is interrupted.
fn shown(tool: Program, is_row: impl Fn(&str) -> bool) -> Vec<String> {
    let shown = tool.interrupt().stdout;
    let rows = shown.lines().filter(|line| is_row(line));
    let mut rows: Vec<String> = rows.map(|line| behind(line, 0)).collect();
    rows.sort();
    rows
}

#[test]
fn funccount_counts_in_one_process() {
    let tool = ["funccount-bpfcc", "-p", "{pid}", "{home}/rounds:rounds_*"];
    on_rounds("30", &tool, "Tracing", |world, tool| {
        let other = world.start(&[world.fixture("rounds")]).finish();
        assert_eq!(other.code, 0, "{other:?}");
        let rows = shown(tool, |line| line.starts_with("rounds_"));
        let expected = ["rounds_add 30", "rounds_alloc 33", "rounds_leak 3"];
        assert_eq!(rows, expected, "{:?}", world.mode());
    });
}

#[test]
fn funccount_shows_functions_of_a_library() {
    let tool = ["funccount-bpfcc", "-p", "{pid}", "-i", "1", "c:mall*c"];
    on_rounds("40", &tool, "Tracing", |world, mut tool| {
        let counted = tool.lines_until(|line| line.starts_with("malloc"));
        let last = counted.last().map(|line| behind(line, 0));
        assert_eq!(last.as_deref(), Some("malloc 44"), "{:?}", world.mode());
    });
}

#[test]
fn trace_filters_and_follows_several_probes() {
    Row {
        tool: &[
            "trace-bpfcc",
            "{home}/rounds:rounds_add (arg1 > 2) \"%d\", arg1",
            "r:{home}/rounds:rounds_add (retval > 16) \"= %d\", retval",
            "{home}/rounds:rounds_leak \"%lu\", arg1",
        ],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "5"],
        lines: 4,
        row: |line| line.contains("rounds_").then(|| behind(line, 2)),
        rows: &[
            "rounds rounds_add 3",
            "rounds rounds_add 4",
            "rounds rounds_add = 19",
            "rounds rounds_leak 1000",
        ],
    }
    .check();
}

#[test]
fn trace_compares_strings_and_formats_numbers() {
    Row {
        tool: &[
            "trace-bpfcc",
            "{home}/rounds:rounds_add (STRCMP(\"round-11\", arg2)) \"%d %u %ld %llu %x %hd %s\", \
             arg1, arg1, arg3, arg3, arg3, arg1, arg2",
        ],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "20"],
        lines: 1,
        row: |line| line.contains("round-").then(|| behind(line, 2)),
        rows: &["rounds rounds_add 11 11 22 22 16 11 round-11"],
    }
    .check();
}

#[test]
fn trace_names_functions_of_addresses_and_stacks() {
    let probe = "{home}/rounds:rounds_leak \"in %U\", (void *)ctx->ip";
    let tool = ["trace-bpfcc", "-U", "-p", "{pid}", probe];
    on_rounds("10", &tool, "PID", |world, mut tool| {
        let row = behind(&tool.line(), 2);
        let named = row.starts_with("rounds rounds_leak in b'rounds_leak");
        assert!(named, "{row} under {:?}", world.mode());
        let frame = tool.line();
        assert!(frame.contains("rounds_leak+0x0 [rounds]"), "{frame}");
        // The kernel walks by frame pointers, which the program does not have.
        if world.mode() == Mode::Bpftime {
            let frame = tool.line();
            assert!(frame.contains("main+") && frame.contains(" [rounds]"));
        }
    });
}

#[test]
fn trace_reads_structures_behind_arguments() {
    let probe = "c:nanosleep(struct __kernel_timespec *ts) \"%ld %ld\", ts->tv_sec, ts->tv_nsec";
    let tool = [
        "trace-bpfcc",
        "-p",
        "{pid}",
        "-I",
        "linux/time_types.h",
        "-M",
        "3",
        probe,
    ];
    let target = ["{home}/rounds", "3", "2000", "wait"];
    on_process(&target, &tool, "PID", |world, mut tool| {
        let rows = [tool.line(), tool.line(), tool.line()].map(|line| behind(&line, 2));
        let row = "rounds nanosleep 0 2000000";
        assert_eq!(rows, [row; 3], "{:?}", world.mode());
    });
}

#[test]
fn funclatency_tells_processes_apart_and_sums_up() {
    let tool = [
        "funclatency-bpfcc",
        "-u",
        "-p",
        "{pid}",
        "{home}/rounds:rounds_slow",
    ];
    let target = ["{home}/rounds", "10", "1500", "wait"];
    on_process(&target, &tool, "Tracing", |world, tool| {
        let rows = shown(tool, |line| line.contains("usecs, total"));
        let is_right = |row: &String| row.ends_with(" usecs, count: 10");
        let sum = |row: &String| {
            row.split(' ')
                .nth(5)
                .and_then(|sum| sum.parse::<u64>().ok())
        };
        assert!(
            rows.len() == 1 && rows.iter().all(is_right) && sum(&rows[0]) >= Some(15_000),
            "{rows:?} under {:?}",
            world.mode()
        );
    });
}

#[test]
fn funcslower_shows_arguments() {
    Row {
        tool: &[
            "funcslower-bpfcc",
            "-a",
            "1",
            "-u",
            "1500",
            "{home}/rounds:rounds_slow",
        ],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "2", "1600"],
        lines: 2,
        row: |line| line.contains("rounds_slow").then(|| behind(line, 5)),
        rows: &["0x640"; 2],
    }
    .check();
}
