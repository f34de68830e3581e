//! A program of every kind of section, on one process and its places: what
//! each sees in user space is what it sees in the kernel.

use std::process::Command;

use bpftime_tests::{Mode, Program, World};

use super::{run, text};
use crate::oracle::same;

/// What kernels without kprobes do not have.
const KPROBES: [&str; 2] = ["on_kernel_enter", "on_kernel_exit"];

/// Puts all programs of `kinds` on a copy of `acts` and has it act five times.
/// Returns the lines that came, sorted, without times.
fn acts(world: &World, options: &[&str]) -> Vec<String> {
    let object = world.fixture("kinds.bpf.o");
    let path = world.fixture("acts");
    let mut target = Program::on_pipes(world.plain(&[&path]));
    let pid = target.pid().to_string();
    assert_eq!(target.line(), format!("pid {pid}"));
    let path = text(&path);
    let attach = [
        "tail=off".to_owned(),
        format!("on_entry={path}:act_add"),
        format!("on_return={path}:act_add"),
        format!("on_many={path}:act_*"),
        format!("on_many_returns={path}:act_*"),
        format!("on_static={path}:acts:step"),
    ];
    let mut words: Vec<&str> = attach
        .iter()
        .flat_map(|words| ["--attach", words])
        .collect();
    words.extend(["--pid", &pid]);
    words.extend(options);
    if world.mode() == Mode::Kernel {
        words.extend(KPROBES.iter().flat_map(|name| ["--without", name]));
    }
    words.extend([text(&object), "--target", &pid]);
    let tool = Program::on_pipes(run(world, &words));
    tool.wait_stderr("attached");
    assert_eq!(target.ask("5"), "ok");
    // The exit of its last call has been seen.
    target.wait_reading();
    let exit = tool.interrupt();
    assert_eq!(target.finish().code, 0);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (0, "bpftime: attached; Ctrl-C ends\n")
    );
    let timed = |line: &str| line.as_bytes().get(2) == Some(&b':');
    let lines = exit.stdout.lines();
    let lines = lines.map(|line| if timed(line) { &line[8..] } else { line });
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn every_section_that_user_space_hosts() {
    let of_kprobes = |line: &String| line.starts_with("kernel_");
    let said = same(|world| {
        let mut lines = acts(world, &[]);
        let before = lines.len();
        lines.retain(|line| !of_kprobes(line));
        let seen = before - lines.len();
        assert_eq!(seen, if world.mode() == Mode::Kernel { 0 } else { 2 });
        lines.join("\n")
    });
    // -1 to -5, as numbers of 32 bits without a sign.
    let pids: u64 = (1..=5).map(|pid| (1 << 32) - pid).sum();
    let mut expected: Vec<String> = [
        "TIME     NUMBER HOW    ",
        "entries: 5",
        "even[0]: 6",
        "exits: 5",
        "has_bpf: 1",
        "has_version: 1",
        "many: 10",
        "many_returned: 10",
        "odd[0]: 4",
        "passed: 10",
        "raw_enters: 5",
        "raw_exits: 5",
        "returned: 30",
        "started: 105",
        "tails: 5",
    ]
    .map(str::to_owned)
    .to_vec();
    expected.push(format!("enters: {pids}"));
    for number in 0..5 {
        expected.push(format!("  {number}     entry"));
        expected.push(format!("  {number}     tail"));
    }
    expected.sort();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn system_calls_by_kernel_functions() {
    let world = World::new();
    let lines = acts(&world, &["--json"]);
    let value = |name: &str| {
        let found = lines
            .iter()
            .find(|line| line.ends_with(&format!("\"variable\":\"{name}\"}}")));
        found
            .cloned()
            .unwrap_or_else(|| panic!("{name}: {lines:?}"))
    };
    let pids: u64 = (1..=5).map(|pid| (1 << 32) - pid).sum();
    assert_eq!(
        value("kernel_enters"),
        format!("{{\"value\":{pids},\"variable\":\"kernel_enters\"}}")
    );
    assert_eq!(
        value("kernel_exits"),
        "{\"value\":5,\"variable\":\"kernel_exits\"}"
    );
}

/// Places in a page that a function of a program covers.
fn function(path: &str, name: &str) -> (u64, u64) {
    let listed = Command::new("nm").args(["-S", path]).output().expect("nm");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = listed
        .lines()
        .find(|line| line.ends_with(&format!(" T {name}")))
        .expect("a symbol");
    let mut words = line
        .split(' ')
        .map(|word| u64::from_str_radix(word, 16).unwrap_or(0));
    let (address, size) = (
        words.next().expect("an address"),
        words.next().expect("a size"),
    );
    (address & 0xfff, (address & 0xfff) + size)
}

#[test]
fn where_a_clock_finds_a_program() {
    same(|world| {
        let object = world.fixture("clock.bpf.o");
        let path = world.fixture("busy");
        let path = text(&path);
        let mut target = Program::on_pipes(world.plain(&[path, "0.5", "wait"]));
        target.wait_reading();
        let pid = target.pid().to_string();
        let attach = "on_tick=cpu-clock@199";
        let words = [
            "--pid",
            &pid,
            "--attach",
            attach,
            text(&object),
            "--target",
            &pid,
        ];
        let tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        assert_eq!(target.ask(""), "done");
        let exit = tool.interrupt();
        assert_eq!((exit.code, target.finish().code), (0, 0), "{exit:?}");
        let counts = exit.stdout.lines().filter_map(|line| {
            let (place, count) = line.strip_prefix("places[")?.split_once("]: ")?;
            Some((place.parse::<u64>().ok()?, count.parse::<u64>().ok()?))
        });
        let counts: Vec<(u64, u64)> = counts.collect();
        let within = |name: &str| {
            let (from, to) = function(path, name);
            let found = counts
                .iter()
                .filter(|(place, _)| (from..to).contains(place));
            found.map(|(_, count)| count).sum::<u64>()
        };
        let (hot, cold) = (within("hot"), within("cold"));
        // Three quarters of the time, of half a second by 199 Hz.
        assert!(hot > 30 && hot > cold, "{hot} {cold}: {exit:?}");
        String::new()
    });
}
