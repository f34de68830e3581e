//! libbpf-tools that look at one process, by `-p`.

use std::time::Duration;

use bpftime_tests::{Mode, Program, World, wait};

use crate::table::{behind, both};

/// Waits until a process has probes that a tool asked for: on a busy machine
/// tools do not wait for targets that need long.
pub fn wait_hooked(world: &World, pid: &str) {
    if world.mode() == Mode::Kernel {
        return;
    }
    wait::until_true("hooks in the target", Duration::from_secs(20), || {
        let status = world.run(&["status"]).stdout;
        let is_hooked = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.first() == Some(&pid) && words.get(2).is_some_and(|count| *count != "0")
        };
        status.lines().any(is_hooked)
    });
}

/// A shell that waits for commands.
pub fn shell(world: &World) -> Program {
    let mut shell = world.start(&["sh"]);
    assert_eq!(shell.ask("echo started"), "started");
    shell
}

/// What a tool shows of a shell's commands; the last row is of the last one.
fn check(tool: &[&str], commands: &[&str], columns: usize, rows: &[&str]) {
    both(|world| {
        let mut shell = shell(world);
        let pid = shell.pid().to_string();
        let mut tool = world.load(&[tool, &["-p", &pid]].concat());
        tool.lines_until(|line| line.contains("PID"));
        tool.wait_idle();
        wait_hooked(world, &pid);
        for command in commands {
            shell.tell(command);
        }
        assert_eq!(shell.ask("echo done"), "done");
        let shown: Vec<String> = rows.iter().map(|_| behind(&tool.line(), columns)).collect();
        assert_eq!(shown, rows, "{:?}", world.mode());
        tool.kill();
        shell.kill();
    });
}

const OPENS: [&str; 3] = [
    ": </usr/bin/true",
    "command : </nonexistent/one",
    "command : </nonexistent/two",
];

#[test]
fn opensnoop_of_one_process() {
    let rows = [
        "0 /usr/bin/true",
        "2 /nonexistent/one",
        "2 /nonexistent/two",
    ];
    check(&["opensnoop"], &OPENS, 3, &rows);
}

#[test]
fn opensnoop_of_failures_of_one_process() {
    let rows = ["2 /nonexistent/one", "2 /nonexistent/two"];
    check(&["opensnoop", "-x"], &OPENS, 3, &rows);
}

const KILLS: [&str; 3] = [
    "kill -0 4194290",
    "kill -TERM 4194290",
    "kill -USR1 4194290",
];

#[test]
fn sigsnoop_of_one_process() {
    let rows = ["sh 0 4194290 -3", "sh 15 4194290 -3", "sh 10 4194290 -3"];
    check(&["sigsnoop", "-k"], &KILLS, 2, &rows);
}

#[test]
fn sigsnoop_of_one_signal() {
    let rows = ["sh SIGUSR1 4194290 -3"];
    check(&["sigsnoop", "-k", "-n", "-s", "10"], &KILLS, 2, &rows);
}

/// The counts of a histogram that are not zero, with where they begin.
fn buckets(text: &str) -> Vec<(u64, u64)> {
    let bucket = |line: &str| {
        let (range, bar) = line.split_once(" : ")?;
        let from = range.split_whitespace().next()?.parse().ok()?;
        let count = bar.split_whitespace().next()?.parse().ok()?;
        (count > 0).then_some((from, count))
    };
    text.lines().filter_map(bucket).collect()
}

/// Eight calls that take two milliseconds or longer.
fn check_funclatency(unit: &str, least: u64) {
    both(|world| {
        let path = world.fixture("rounds").display().to_string();
        let mut work = world.start(&[&path, "8", "2000", "wait"]);
        work.line();
        let pid = work.pid().to_string();
        // Of the process's own program.
        let function = ":rounds_slow";
        let mut tool = world.load(&["funclatency", unit, "-p", &pid, function]);
        tool.lines_until(|line| line.contains("Hit Ctrl-C"));
        tool.wait_asleep();
        wait_hooked(world, &pid);
        assert_eq!(work.ask("go"), "sum 140 right");
        let exit = tool.interrupt();
        let buckets = buckets(&exit.stdout);
        assert_eq!(
            buckets.iter().map(|(_, count)| count).sum::<u64>(),
            8,
            "{exit:?}"
        );
        assert!(buckets.iter().all(|(from, _)| *from >= least), "{exit:?}");
        work.kill();
    });
}

#[test]
fn funclatency_in_microseconds() {
    check_funclatency("-u", 1024);
}

#[test]
fn funclatency_in_milliseconds() {
    check_funclatency("-m", 2);
}
