//! Nothing is lost, repeated or torn when eight threads of four processes call
//! a function as fast as they can: what the tool reads against the calls that
//! there were, and against what the programs could not write.

use bpftime_tests::{Mode, Program, World};

const PROCESSES: u64 = 4;
const THREADS: u64 = 2;
const PRODUCERS: u64 = PROCESSES * THREADS;

fn pair(world: &World, program: &str) -> (Program, Program) {
    let path = world.fixture("producers");
    let tool = world.fixture_tool("exact", &[program], &path, "produce");
    let mut target = world.start(&[
        path.into_os_string(),
        PROCESSES.to_string().into(),
        THREADS.to_string().into(),
    ]);
    assert_eq!(target.line(), "ready");
    (tool, target)
}

/// Has every producer call `calls` times; how many calls that were in all.
fn produce(target: &mut Program, calls: u64) -> u64 {
    assert_eq!(target.ask(&format!("calls {calls}")), "ok");
    calls * PRODUCERS
}

/// The number after `name` in a line of names and numbers.
fn number(line: &str, name: &str) -> u64 {
    let mut words = line.split(' ').skip_while(|word| *word != name);
    let number = words.nth(1).and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("no {name} in {line:?}"))
}

/// A hundredth for the kernel, which takes a microsecond and more for a call.
fn calls(world: &World, calls: u64) -> u64 {
    match world.mode() {
        Mode::Bpftime => calls,
        Mode::Kernel => calls / 100,
    }
}

#[test]
fn counts_of_all_kinds_are_exact() {
    let world = World::new();
    let (mut tool, mut target) = pair(&world, "counts");
    let tried: u64 = (0..4).map(|_| produce(&mut target, 50_000)).sum();
    let names = [
        "percpu_array",
        "percpu_hash",
        "percpu_lru",
        "array",
        "hash",
        "lru",
    ];
    let expected: Vec<String> = names.map(|name| format!("{name} {tried}")).into();
    assert_eq!(tool.ask("counts"), expected.join(" "));
}

/// Received and refused are all; what is left out of a producer's numbers is
/// what was refused.
fn check_records(world: &World, program: &str, per_round: u64, wanted: u64) {
    let (mut tool, mut target) = pair(world, program);
    let mut tried = 0;
    let wanted = calls(world, wanted);
    for _ in 0..40 {
        tried += produce(&mut target, calls(world, per_round));
        let said = tool.ask("records");
        if number(&said, "received") >= wanted {
            break;
        }
    }
    // There is room again, so each producer's last numbers come, and each
    // CPU's ring tells what it lost.
    assert_eq!(target.ask("last"), "ok");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    tried += cpus * PRODUCERS;
    let said = tool.ask("records");
    let [received, dropped] = ["received", "dropped"].map(|name| number(&said, name));
    assert_eq!(received + dropped, tried, "{said}");
    assert!(received >= wanted, "{said}");
    assert_eq!(
        (number(&said, "torn"), number(&said, "again")),
        (0, 0),
        "{said}"
    );
    match program {
        "ring_records" => assert_eq!(number(&said, "missing"), dropped, "{said}"),
        _ => assert_eq!(number(&said, "lost"), dropped, "{said}"),
    }
}

fn check_both(program: &str, per_round: u64, wanted: u64) {
    check_records(&World::new(), program, per_round, wanted);
    if let Some(kernel) = World::kernel() {
        check_records(&kernel, program, per_round, wanted);
    }
}

#[test]
fn ten_million_records_of_eight_producers_come_once_and_in_order() {
    check_both("ring_records", 650_000, 10_000_000);
}

#[test]
fn records_of_perf_rings_come_or_are_told_as_lost() {
    check_both("perf_records", 50_000, 300_000);
}
