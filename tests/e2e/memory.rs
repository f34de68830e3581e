//! Helpers that read the target's memory, beside the kernel's: the same
//! results and the same bytes, and never a signal.

use bpftime_tests::{Program, World};

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
    let ours = said(&World::new(), command);
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

#[test]
fn reads_at_borders_of_mappings() {
    same("edges", 9 * 12 * 10 + 9 * 10);
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
