//! Death at any moment under load, on either side: counts are kept, nobody
//! hangs, nothing is left.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bpftime_tests::{Program, World, wait};

const THREADS: usize = 2;

/// Starts `hot` with its tally at `file`; it has called at least once when this returns.
fn hot(world: &World, file: &Path) -> Program {
    let program = world.fixture("hot");
    let mut hot = world.start(&[
        program.as_os_str(),
        THREADS.to_string().as_ref(),
        file.as_os_str(),
    ]);
    assert_eq!(hot.line(), format!("pid {}", hot.pid()));
    hot
}

/// Calls of all threads that have begun and ended, by the target's own tally.
fn tally(file: &Path) -> (u64, u64) {
    let bytes = fs::read(file).expect("the tally");
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
        .collect();
    assert_eq!(words.len(), 2 * THREADS);
    (
        words.iter().step_by(2).sum(),
        words.iter().skip(1).step_by(2).sum(),
    )
}

/// Time to the kill in round `round`: a few milliseconds, never the same.
fn moment(round: u64) -> Duration {
    Duration::from_micros(3_000 + round * 7_919 % 12_000)
}

#[test]
fn a_target_killed_under_load_leaves_exact_counts() {
    let world = World::new();
    let path = world.fixture("hot");
    let file = world.home().join("tally");
    let mut counter = world.fixture_tool("counter", &["-m", "0"], &path, "hot_call");
    let (mut begun, mut ended) = (0, 0);
    for round in 0..20 {
        let hot = hot(&world, &file);
        std::thread::park_timeout(moment(round));
        assert_eq!(hot.kill().code, 128 + 9);
        let (more_begun, more_ended) = tally(&file);
        (begun, ended) = (begun + more_begun, ended + more_ended);

        counter.tell("print");
        let lines = counter.lines_until(|line| line == ".");
        let number = |prefix: &str, word: usize| -> u64 {
            let found = lines.iter().filter(|line| line.starts_with(prefix));
            found
                .map(|line| {
                    line.split(' ')
                        .nth(word)
                        .and_then(|word| word.parse::<u64>().ok())
                        .expect("a number")
                })
                .sum()
        };
        for (what, count) in [
            ("calls", number("calls ", 1)),
            ("hash", number("hash ", 2)),
            ("per-CPU hash", number("percpu_hash ", 2)),
            ("per-CPU array", number("percpu_array ", 2)),
        ] {
            assert!(
                (ended..=begun).contains(&count),
                "round {round}: {what} {count}, not in {ended}..={begun}"
            );
        }
        assert_eq!(number("refused ", 1), 0, "round {round}");
        let keys = lines
            .iter()
            .filter(|line| line.starts_with("hash "))
            .count();
        assert_eq!(keys, THREADS, "round {round}: {lines:?}");
    }
    assert_eq!(counter.ask("clear"), "cleared");
    assert_eq!(counter.ask("total"), "0");
    assert_eq!(counter.finish().code, 0);
    world.expect_nothing_left();
}

#[test]
fn a_target_killed_while_it_writes_records_leaves_a_ring_that_works() {
    let world = World::new();
    let tgt = world.fixture("tgt");
    let mut tool = world.fixture_tool("ringtrace", &["-s"], &tgt, "tgt_add");
    for round in 0..20 {
        let victim = world.start(&[tgt.as_os_str(), "100000000".as_ref()]);
        tool.lines_until(|line| line.contains(" first=50 "));
        std::thread::park_timeout(moment(round) / 4);
        assert_eq!(victim.kill().code, 128 + 9);
        // A later target's record comes through: the ring is not stuck.
        let whole = world.start(&[tgt.as_os_str(), "3".as_ref()]).finish();
        assert_eq!(whole.stdout, "sum 30 right\n", "round {round}");
        tool.lines_until(|line| line.contains(" first=2 "));
    }
    tool.tell("quit");
    assert_eq!(tool.finish().code, 0);
}

#[test]
fn a_tool_killed_under_load_lets_the_target_run_on() {
    let world = World::new();
    let path = world.fixture("hot");
    let file = world.home().join("tally");
    let mut hot = hot(&world, &file);
    for round in 0..20 {
        let options: &[&str] = if round % 2 == 0 {
            &["-m", "0"]
        } else {
            &["-m", "0", "-r"]
        };
        let mut counter = world.fixture_tool("counter", options, &path, "hot_call");
        wait::until_true("calls counted", wait::LONG, || counter.ask("total") != "0");
        std::thread::park_timeout(moment(round));
        counter.kill();
        world.expect_nothing_left();
        let (_, before) = tally(&file);
        wait::until_true("the target goes on", wait::LONG, || {
            tally(&file).1 > before + 100_000
        });
        assert!(hot.runs());
    }
    let exit = hot.kill();
    assert_eq!((exit.code, exit.stderr.as_str()), (128 + 9, ""));
}
