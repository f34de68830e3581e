//! bcc's tools that count by keys of the user's choice: `argdist`,
//! `stackcount`, and `uobjnew` for allocations of C programs.

use bpftime_tests::{Mode, Program};

use crate::table::{behind, both, expand, on_rounds, tool_command};

/// Runs `argdist` with these probes and the workload, and compares the rows of
/// what it has summed up in the end.
fn argdist(probes: &[&str], work: &[&str], expected: &[&str]) {
    both(|world| {
        world.fixture("rounds");
        let words = [&["argdist-bpfcc", "-c", "-i", "1"], probes].concat();
        let mut tool = Program::on_terminal(tool_command(world, &expand(world, &words)));
        tool.line();
        let work = world.start(&expand(world, work)).finish();
        assert_eq!(work.code, 0, "{work:?}");
        // What is shown between two times of day.
        let is_time = |line: &str| line.starts_with('[');
        tool.lines_until(is_time);
        let block = tool.lines_until(is_time);
        let mut rows: Vec<String> = block.iter().filter_map(|line| counted(line)).collect();
        rows.sort();
        assert_eq!(rows, expected, "{:?} {block:?}", world.mode());
        tool.kill();
    });
}

/// A key with its count, or a filled row of a histogram.
fn counted(line: &str) -> Option<String> {
    if line.contains(" = ") {
        return Some(behind(line, 0));
    }
    let (range, rest) = line.split_once(" : ")?;
    let count: u64 = rest.split_whitespace().next()?.parse().ok()?;
    (count != 0).then(|| format!("{}: {count}", behind(range, 0)))
}

#[test]
fn argdist_counts_arguments_and_results() {
    let arguments = "p:{home}/rounds:rounds_add(int a, char *s, long c):int:a&1";
    let results = "r:{home}/rounds:rounds_add():int:$retval>20";
    argdist(
        &["-C", arguments, "-C", results],
        &["{home}/rounds", "9"],
        &[
            "4 $retval>20 = 1",
            "4 a&1 = 1",
            "5 $retval>20 = 0",
            "5 a&1 = 0",
        ],
    );
}

#[test]
fn argdist_fills_histograms_and_remembers_arguments_and_times() {
    let sizes = "p:{home}/rounds:rounds_alloc(size_t size):u64:size";
    let pairs = "r:{home}/rounds:rounds_add(int a):int,int:$entry(a)&1,$retval&1";
    // A call cannot be faster than it sleeps.
    let slow = "r:{home}/rounds:rounds_slow():int:$latency>=2000000";
    argdist(
        &["-H", sizes, "-C", pairs, "-C", slow],
        &["{home}/rounds", "20", "2000"],
        &[
            "20 $latency>=2000000 = 1",
            "5 a&1 = 0, $retval&1 = 0",
            "5 a&1 = 0, $retval&1 = 1",
            "5 a&1 = 1, $retval&1 = 0",
            "5 a&1 = 1, $retval&1 = 1",
            "512 -> 1023: 2",
            "64 -> 127: 20",
        ],
    );
}

#[test]
fn argdist_counts_static_probes_and_compares_strings() {
    let numbers = "u:{home}/rounds:plain():int:arg1:arg1<3";
    let texts = "p:{home}/rounds:rounds_add(int a, char *s):char*:s:STRCMP(\"round-7\", s)";
    argdist(
        &["-C", numbers, "-C", texts],
        &["{home}/rounds", "20"],
        &["1 arg1 = 0", "1 arg1 = 1", "1 arg1 = 2", "1 s = b'round-7'"],
    );
}

#[test]
fn argdist_counts_fields_of_tracepoints() {
    let signals = "t:syscalls:sys_enter_kill():int:args->sig:args->pid==4194301";
    let work = "for s in 9 15 15; do kill -$s 4194301 2>/dev/null; done; :";
    argdist(
        &["-C", signals],
        &["sh", "-c", work],
        &["1 args->sig = 9", "2 args->sig = 15"],
    );
}

#[test]
fn stackcount_counts_by_processes_and_stacks() {
    let tool = ["stackcount-bpfcc", "-U", "-P", "{home}/rounds:rounds_alloc"];
    on_rounds("20", &tool, "Tracing", |world, tool| {
        let shown = tool.interrupt().stdout;
        let lines: Vec<String> = shown.lines().map(|line| behind(line, 0)).collect();
        let of = |name: &str| lines.iter().filter(|line| *line == name).count();
        assert!(shown.contains("    b'rounds' ["), "{shown}");
        let mut counts: Vec<u64> = lines.iter().filter_map(|line| line.parse().ok()).collect();
        counts.sort_unstable();
        // The kernel walks by frame pointers, which the program does not have.
        match world.mode() {
            Mode::Bpftime => {
                assert_eq!(counts, [2, 20], "{shown}");
                let frames = ["rounds_alloc", "rounds_leak", "main", "_start"].map(of);
                assert_eq!(frames, [2, 1, 2, 2], "{shown}");
            }
            Mode::Kernel => assert_eq!(counts.iter().sum::<u64>(), 22, "{shown}"),
        }
    });
}

#[test]
fn stackcount_folds_stacks() {
    let probe = "{home}/rounds:rounds_leak";
    let tool = ["stackcount-bpfcc", "-f", "-U", "-p", "{pid}", probe];
    on_rounds("30", &tool, "", |world, tool| {
        let shown = tool.interrupt().stdout;
        let rows: Vec<&str> = shown.lines().collect();
        let end = match world.mode() {
            Mode::Bpftime => ";main;rounds_leak 3",
            Mode::Kernel => ";rounds_leak 3",
        };
        assert!(rows.len() == 1 && rows[0].ends_with(end), "{shown}");
    });
}

#[test]
fn uobjnew_counts_allocations_by_their_size() {
    let tool = ["uobjnew", "-l", "c", "{pid}"];
    on_rounds("20", &tool, "Tracing", |world, tool| {
        let shown = tool.interrupt().stdout;
        let rows = shown.lines().filter(|line| line.starts_with("block size"));
        let mut rows: Vec<String> = rows.map(|line| behind(line, 2)).collect();
        rows.sort();
        assert_eq!(rows, ["1000 2 2000", "64 20 1280"], "{:?}", world.mode());
    });
}
