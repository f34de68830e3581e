//! Helpers that read the target's memory, beside the kernel's: the same
//! results and the same bytes, and never a signal.

use std::fs;
use std::time::Duration;

use bpftime_tests::{Program, World, wait};

/// What the reads of a target said in one world.
fn said(world: &World, command: &str) -> Vec<String> {
    let (mut reads, mut pages) = start(world);
    assert_eq!(pages.ask(command), "ok");
    let said = print(&mut reads);
    assert_eq!(pages.finish().code, 0);
    assert_eq!(reads.finish().code, 0);
    said
}

fn start(world: &World) -> (Program, Program) {
    let path = world.fixture("pages");
    let reads = world.fixture_tool("reads", &[], &path, "read_here");
    let mut pages = world.start(&[path]);
    assert_eq!(pages.line(), format!("pid {}", pages.pid()));
    (reads, pages)
}

fn print(reads: &mut Program) -> Vec<String> {
    reads.tell("print");
    let mut said = reads.lines_until(|line| line == ".");
    said.pop();
    assert_eq!(said.pop().as_deref(), Some("dropped 0"));
    // Two programs are on the point; their order is another matter.
    said.sort_by_key(|line| {
        let mut numbers = line.split(' ').map(|word| word.parse::<u32>().ok());
        (numbers.next(), numbers.next())
    });
    said
}

/// Both worlds say the same `records` lines, five for each read.
fn same(command: &str, reads: usize) {
    as_the_kernel(command, reads, &said(&World::new(), command));
}

fn as_the_kernel(command: &str, reads: usize, ours: &[String]) {
    assert_eq!(ours.len(), 5 * reads);
    let Some(kernel) = World::kernel() else {
        return;
    };
    let theirs = said(&kernel, command);
    assert_eq!(theirs.len(), ours.len());
    let differ: Vec<_> = ours.iter().zip(&theirs).filter(|(a, b)| a != b).collect();
    assert!(
        differ.is_empty(),
        "{} differ, the first (bpftime, kernel): {:#?}",
        differ.len(),
        &differ[..differ.len().min(4)]
    );
}

const EDGES: usize = 9 * 12 * 10 + 9 * 10;

#[test]
fn reads_at_borders_of_mappings() {
    same("edges", EDGES);
}

/// Has a target read until its agent says that it reads by plain loads there. It
/// looks at memory of which reads have told, unless some is just being taken away.
fn await_table(world: &World, target: &mut Program) {
    let log = world.home().join(format!("state/log-{}", target.pid()));
    let is_in = |range: &str, address: u64| {
        let (start, end) = range.split_once("..")?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some((number(start)?..number(end)?).contains(&address))
    };
    let holds = |line: &str, address: u64| {
        let ranges = line.strip_prefix("readable: [")?.strip_suffix(']')?;
        Some(
            ranges
                .split(", ")
                .any(|range| is_in(range, address) == Some(true)),
        )
    };
    let is_known = |address: u64| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let mut told = text.lines().rev().filter_map(|line| holds(line, address));
        told.next() == Some(true)
    };
    wait::until_true("memory that is known to be readable", wait::LONG, || {
        assert_eq!(target.ask("edges"), "ok");
        let address = u64::from_str_radix(&target.ask("where"), 16).expect("an address");
        std::thread::park_timeout(Duration::from_millis(200));
        is_known(address)
    });
}

#[test]
fn reads_by_plain_loads_at_borders_of_mappings() {
    let world = World::new();
    let path = world.fixture("pages");
    let mut reads = world.fixture_tool("reads", &[], &path, "read_here");
    let mut command = world.target(&[path]);
    command.env("BPFTIME_LOG", "debug");
    let mut pages = Program::on_pipes(command);
    assert_eq!(pages.line(), format!("pid {}", pages.pid()));
    await_table(&world, &mut pages);
    print(&mut reads);
    assert_eq!(pages.ask("edges"), "ok");
    let ours = print(&mut reads);
    assert_eq!(pages.finish().code, 0);
    assert_eq!(reads.finish().code, 0);
    as_the_kernel("edges", EDGES, &ours);
}

#[test]
fn reads_of_the_own_stack() {
    same("stack", 16 * 10 + 2 * 10);
}

#[test]
fn reads_of_what_is_unmapped_meanwhile() {
    let world = World::new();
    let (reads, mut pages) = start(&world);
    assert_eq!(pages.ask("race 4000"), "ok");
    assert_eq!(pages.finish().code, 0);
    assert_eq!(reads.finish().code, 0);
}

/// Seconds that the storm takes; more by `TORTURE_SECONDS`.
fn storm_ms() -> u64 {
    let seconds = std::env::var("TORTURE_SECONDS").ok();
    seconds
        .and_then(|text| text.parse::<u64>().ok())
        .unwrap_or(5)
        * 1000
        / 6
}

#[test]
fn reads_by_plain_loads_of_what_is_taken_away_meanwhile() {
    let world = World::new();
    let path = world.fixture("pages");
    let reads = world.fixture_tool("reads", &[], &path, "read_here");
    let mut command = world.target(&[path]);
    command.env("BPFTIME_LOG", "debug");
    let mut pages = Program::on_pipes(command);
    assert_eq!(pages.line(), format!("pid {}", pages.pid()));
    await_table(&world, &mut pages);
    assert_eq!(pages.ask(&format!("storm {}", storm_ms())), "ok");
    assert_eq!(pages.finish().code, 0);
    assert_eq!(reads.finish().code, 0);
}
