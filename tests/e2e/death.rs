//! Death at any moment under load, on either side: counts are kept, nobody
//! hangs, nothing is left. `cargo run -p bpftime-xtask -- soak` does the same
//! for as long as one likes.

use std::time::Duration;

use bpftime_tests::{Counted, Hot, Program, World, hot, wait};

/// Time to the kill in round `round`: a few milliseconds, never the same.
fn moment(round: u64) -> Duration {
    Duration::from_micros(3_000 + round * 7_919 % 12_000)
}

#[test]
fn a_target_that_ends_by_the_bare_system_call_ends() {
    let world = World::new();
    let bare = format!("syscall({}, 4)", libc::SYS_exit);
    let ends = || world.start(&["/usr/bin/perl", "-e", &bare]).finish().code;
    assert_eq!(ends(), 4);
    let _tool = world.fixture_tool("counter", &["-m", "0"], &world.fixture("hot"), "hot_call");
    assert_eq!(ends(), 4);
}

#[test]
fn a_target_killed_under_load_leaves_exact_counts() {
    let world = World::new();
    let mut counter =
        world.fixture_tool("counter", &["-m", "0"], &world.fixture("hot"), "hot_call");
    let (mut begun, mut ended) = (0, 0);
    for round in 0..20 {
        let hot = Hot::start(&world, "tally");
        std::thread::park_timeout(moment(round));
        let (exit, calls) = hot.kill();
        assert_eq!(exit.code, 128 + 9);
        (ended, begun) = (ended + calls.start(), begun + calls.end());

        let counted = Counted::by(&mut counter);
        for (way, count) in counted.ways() {
            assert!(
                (ended..=begun).contains(&count),
                "round {round}: {way} {count}, not in {ended}..={begun}"
            );
        }
        assert_eq!(counted.sum("refused"), 0, "round {round}");
        assert_eq!(
            counted.keys("hash"),
            hot::THREADS,
            "round {round}: {counted:?}"
        );
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
        // When the reader has caught up, a later target's records come through: nothing is stuck.
        tool.wait_idle();
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
    let mut hot = Hot::start(&world, "tally");
    for round in 0..20 {
        let options: &[&str] = if round % 2 == 0 {
            &["-m", "0"]
        } else {
            &["-m", "0", "-r"]
        };
        let mut counter = world.fixture_tool("counter", options, &world.fixture("hot"), "hot_call");
        wait::until_true("calls counted", wait::LONG, || counter.ask("total") != "0");
        std::thread::park_timeout(moment(round));
        counter.kill();
        world.expect_nothing_left();
        let before = *hot.calls().end();
        wait::until_true("the target goes on", wait::LONG, || {
            *hot.calls().start() > before + 100_000
        });
        assert!(hot.runs());
    }
    let (exit, _) = hot.kill();
    assert_eq!((exit.code, exit.stderr.as_str()), (128 + 9, ""));
}

#[test]
fn a_tool_killed_while_it_attaches_leaves_the_target_as_it_was() {
    let world = World::new();
    let mut puppet = world.puppet();
    let before = (puppet.ask("text"), puppet.ask("fds"));
    for round in 0..12 {
        let words = [world.fixture("points"), world.fixture("puppet")];
        let mut tool = Program::on_pipes(world.tool(&words));
        assert_eq!(tool.line(), "ready");
        for line in [
            "perf entry puppet_step 1 -1 0",
            "multi session puppet_step 2 -1 0",
            "many entry puppet_",
        ] {
            tool.tell(line);
        }
        std::thread::sleep(moment(round));
        tool.kill();
        for line in ["call 2000", "threads 3 500", "fork 50", "recurse 20"] {
            assert_eq!(puppet.ask(line), "ok", "{line}");
        }
    }
    // Agents look for tools that were killed every half second.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while (puppet.ask("text"), puppet.ask("fds")) != before {
        assert!(std::time::Instant::now() < deadline, "probes stay");
        std::thread::sleep(Duration::from_millis(50));
    }
    puppet.tell("quit");
    assert_eq!(puppet.finish().code, 0);
}
