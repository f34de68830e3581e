//! bcc's Python tools.

use bpftime_tests::{Mode, World};

use crate::table::{Row, behind, on_rounds};

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
fn funcslower_shows_slow_calls() {
    Row {
        tool: &["funcslower-bpfcc", "-m", "1", "{home}/rounds:rounds_slow"],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "3", "2000"],
        lines: 3,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_slow = || words[2].parse::<f64>().is_ok_and(|ms| ms >= 2.0);
            (words.first() == Some(&"rounds") && is_slow()).then(|| words[3].to_owned())
        },
        rows: &["0", "0", "0"],
    }
    .check();
}

#[test]
fn funclatency_fills_the_right_buckets() {
    Row {
        tool: &["funclatency-bpfcc", "{home}/rounds:rounds_slow"],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "20", "2000"],
        lines: 0,
        row: |line| {
            if let Some((_, count)) = line.split_once("count: ") {
                return Some(format!("calls {}", count.trim()));
            }
            // A call cannot be faster than it sleeps.
            let (range, rest) = line.split_once(" : ")?;
            let low: u64 = range.split("->").next()?.trim().parse().ok()?;
            let count: u64 = rest.split_whitespace().next()?.parse().ok()?;
            (low < 1_048_576 && count != 0).then(|| format!("too fast: {line}"))
        },
        rows: &["calls 20"],
    }
    .check();
}

#[test]
fn stackcount_counts_by_stacks() {
    Row {
        tool: &["stackcount-bpfcc", "-U", "{home}/rounds:rounds_alloc"],
        fixtures: &["rounds"],
        work: &["{home}/rounds", "20"],
        lines: 0,
        row: |line| {
            // Frames of a program that has ended have no names.
            let count: u64 = line.trim().parse().ok()?;
            Some(count.to_string())
        },
        // From the loop, and from the function that leaks.
        rows: &["2", "20"],
    }
    .check_ours();
}

#[test]
fn bashreadline_shows_what_was_typed() {
    Row {
        tool: &["bashreadline-bpfcc"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "printf 'echo hi\\nexit\\n' | bash --norc -i >/dev/null 2>&1",
        ],
        lines: 2,
        row: |line| (!line.starts_with("TIME")).then(|| behind(line, 2)),
        rows: &["echo hi", "exit"],
    }
    .check();
}

#[test]
fn gethostlatency_shows_each_lookup() {
    Row {
        tool: &["gethostlatency-bpfcc"],
        fixtures: &["gai"],
        work: &["{home}/gai", "2"],
        lines: 6,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // The kernel cannot read the first name when its page is not resident.
            let name = || words.get(4).copied().unwrap_or("ip6-localhost");
            (words.get(2) == Some(&"gai")).then(|| name().to_owned())
        },
        rows: &[
            "ip6-localhost",
            "localhost",
            "localhost",
            "localhost",
            "localhost",
            "localhost",
        ],
    }
    .check();
}

#[test]
fn memleak_shows_who_leaks() {
    let tool = ["memleak-bpfcc", "-p", "{pid}", "-o", "0", "1"];
    on_rounds("200", &tool, "Top 10", |world, mut tool| {
        // The kernel walks by frame pointers, which the program does not have:
        // what it sums up by stacks is something else.
        if world.mode() == Mode::Kernel {
            return;
        }
        let is_leak = |line: String| line.contains("20000 bytes in 20 allocations from stack");
        assert!((0..40).any(|_| is_leak(tool.line())));
        for function in ["rounds_alloc+", "rounds_leak+", "main+"] {
            let frame = tool.line();
            assert!(frame.contains(function), "{frame}");
        }
    });
}

#[test]
fn trace_raises_semaphores() {
    let probe = "u:{home}/rounds:watched \"%d %s\", arg1, arg2";
    on_rounds(
        "2",
        &["trace-bpfcc", "-p", "{pid}", probe],
        "PID",
        |world, mut tool| {
            let rows = [tool.line(), tool.line()].map(|line| behind(&line, 2));
            assert_eq!(
                rows,
                ["rounds watched 0 round-0", "rounds watched 1 round-1"],
                "{:?}",
                world.mode()
            );
        },
    );
}

#[test]
fn who_looks_into_the_kernel_is_told_where_that_works() {
    let exit = World::new().load(&["filelife-bpfcc"]).finish();
    let why = exit.stderr.lines().last().unwrap_or_default();
    assert!(
        exit.code == 1 && why.starts_with("bpftime: no program was loaded; "),
        "{exit:?}"
    );
}
