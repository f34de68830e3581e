//! Breakpoints: only on request, where no jump fits, shown, and gone without a
//! trace when nobody needs them.

use std::time::Duration;

use bpftime_tests::{Program, World, wait};

const SECONDS: Duration = Duration::from_secs(20);

fn greeted(mut target: Program) -> Program {
    assert_eq!(target.line(), format!("pid {}", target.pid()));
    target
}

fn tool(world: &World) -> Program {
    world.fixture_tool("counter", &["-m", "0"], &world.fixture("tight"), "tight")
}

/// The target's row in `bpftime status`.
fn row(world: &World, target: &Program) -> String {
    let status = world.run(&["status"]).stdout;
    let pid = target.pid().to_string();
    let row = status
        .lines()
        .find(|line| line.split_whitespace().next() == Some(&pid));
    row.unwrap_or_else(|| panic!("{status}")).to_owned()
}

fn expect_no_trace(target: &mut Program) {
    wait::until_true("the handler's end", SECONDS, || {
        target.ask("caught") == "no"
    });
    assert_eq!(target.ask("text"), "53");
    assert_eq!(target.ask("call 10"), "ok");
}

fn end(mut target: Program) {
    target.tell("quit");
    assert_eq!(target.finish().code, 0);
}

#[test]
fn without_a_request_there_is_none() {
    let world = World::new();
    let mut target = greeted(world.start(&[world.fixture("tight")]));
    let mut counter = tool(&world);
    assert_eq!(target.ask("call 10"), "ok");
    assert_eq!(counter.ask("total"), "0");
    assert_eq!(target.ask("text"), "53");
    assert_eq!(target.ask("caught"), "no");
    let row = row(&world, &target);
    assert!(row.contains("cannot be probed: no"), "{row}");
    assert!(!row.contains("breakpoint"), "{row}");
    end(target);
    counter.tell("quit");
    assert_eq!(counter.finish().code, 0);
}

#[test]
fn a_started_program_with_breakpoints_has_its_own_traps_and_masks() {
    let world = World::new();
    let path = world.fixture("tight");
    let words = ["start", "--breakpoints", path.to_str().expect("a name")];
    let mut target = greeted(Program::on_pipes(world.bpftime(&words)));
    assert_eq!(target.ask("caught"), "no");
    let mut counter = tool(&world);
    assert_eq!(target.ask("text"), "cc", "{}", row(&world, &target));
    let shown = row(&world, &target);
    assert!(shown.contains("1 by breakpoint: "), "{shown}");
    assert!(shown.contains("tight:0x"), "{shown}");
    let mut expected = 0;
    for (line, calls) in [
        ("call 100", 100),
        ("threads 4 50", 200),
        ("fork 10", 10),
        ("spawn 20", 20),
    ] {
        assert_eq!(target.ask(line), "ok", "{line}");
        expected += calls;
        wait::until_true(line, SECONDS, || {
            counter.ask("total") == expected.to_string()
        });
    }
    assert_eq!(target.ask("told"), "default");
    assert_eq!(target.ask("blocked"), "yes");
    assert_eq!(target.ask("handle"), "ok");
    assert_eq!(target.ask("told"), "yes");
    assert_eq!(target.ask("own"), "1");
    assert_eq!(target.ask("own"), "2");
    assert_eq!(target.ask("fork 5"), "ok");
    assert_eq!(counter.ask("total"), (expected + 1 + 2 + 5).to_string());
    counter.tell("quit");
    assert_eq!(counter.finish().code, 0);
    assert_eq!(target.ask("text"), "53");
    assert_eq!(target.ask("own"), "3");
    assert_eq!(target.ask("told"), "yes");
    // And again.
    let mut counter = tool(&world);
    assert_eq!(target.ask("call 3"), "ok");
    assert_eq!(counter.ask("total"), "3");
    counter.tell("quit");
    assert_eq!(counter.finish().code, 0);
    end(target);
}

#[test]
fn an_attached_process_is_left_without_a_trace() {
    let world = World::new();
    let mut target = greeted(Program::on_pipes(world.plain(&[world.fixture("tight")])));
    let pid = target.pid().to_string();
    let mut counter = tool(&world);
    assert_eq!(world.run(&["attach", "--breakpoints", &pid]).code, 0);
    // Whoever attaches is a debugger until the agent has started.
    wait::until_true("a breakpoint", SECONDS, || target.ask("text") == "cc");
    assert_eq!(target.ask("threads 2 100"), "ok");
    assert_eq!(counter.ask("total"), "200");
    // The tool goes.
    assert_eq!(counter.ask("detach"), "detached");
    expect_no_trace(&mut target);
    assert_eq!(counter.ask("attach"), "ready");
    assert_eq!(target.ask("call 5"), "ok");
    assert_eq!(counter.ask("total"), "205");
    // The agent goes.
    assert_eq!(world.run(&["detach", &pid]).code, 0);
    expect_no_trace(&mut target);
    end(target);
}

#[test]
fn busy_threads_survive_their_coming_and_going() {
    let world = World::new();
    let mut target = greeted(Program::on_pipes(world.plain(&[world.fixture("tight")])));
    let pid = target.pid().to_string();
    let mut counter = tool(&world);
    assert_eq!(target.ask("busy 3"), "ok");
    for _ in 0..2 {
        // Who blocks SIGTRAP already is never sent into a breakpoint.
        assert_eq!(world.run(&["attach", "--breakpoints", &pid]).code, 0);
        wait::until_true("a refusal", SECONDS, || {
            row(&world, &target).contains("blocks SIGTRAP")
        });
        assert_eq!(target.ask("text"), "53");
        assert_eq!(target.ask("rest"), "ok");
        for round in 0..4 {
            assert_eq!(counter.ask("detach"), "detached");
            assert_eq!(counter.ask("attach"), "ready");
            wait::until_true("a breakpoint", SECONDS, || target.ask("text") == "cc");
            if round == 0 {
                assert_eq!(target.ask("busy 3"), "ok");
            }
            let before = counter.ask("total");
            wait::until_true("hits", SECONDS, || counter.ask("total") != before);
        }
        assert_eq!(world.run(&["detach", &pid]).code, 0);
        expect_no_trace(&mut target);
        assert_eq!(target.ask("rest"), "ok");
        assert_eq!(target.ask("busy 3"), "ok");
    }
    assert_eq!(target.ask("rest"), "ok");
    end(target);
    counter.tell("quit");
    assert_eq!(counter.finish().code, 0);
}

#[test]
fn memory_that_may_hold_any_code_takes_them_away() {
    let world = World::new();
    let path = world.fixture("tight");
    let words = ["start", "--breakpoints", path.to_str().expect("a name")];
    let mut target = greeted(Program::on_pipes(world.bpftime(&words)));
    let mut counter = tool(&world);
    assert_eq!(target.ask("call 10"), "ok");
    assert_eq!(counter.ask("total"), "10");
    assert_eq!(target.ask("writable"), "ok");
    wait::until_true("the breakpoint's end", SECONDS, || {
        target.ask("text") == "53"
    });
    expect_no_trace(&mut target);
    assert_eq!(target.ask("block"), "ok");
    let shown = row(&world, &target);
    assert!(shown.contains("its breakpoint was taken away"), "{shown}");
    assert_eq!(counter.ask("total"), "10");
    end(target);
    counter.tell("quit");
    assert_eq!(counter.finish().code, 0);
}
