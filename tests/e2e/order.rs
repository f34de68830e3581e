//! Start first or load first, many tools, many targets, tools that come and
//! go: counts are exact all the time.

use bpftime_tests::{Program, World, wait};
use nix::sys::signal::Signal;

/// A running `counter` on the puppet's step.
fn counter(world: &World) -> Program {
    world.fixture_tool("counter", &[], &world.fixture("puppet"), "puppet_step")
}

#[test]
fn load_first() {
    let world = World::new();
    let mut counter = counter(&world);
    let mut puppet = world.puppet();
    assert_eq!(puppet.ask("call 100"), "ok");
    assert_eq!(counter.ask("total"), "100");
}

#[test]
fn start_first() {
    let world = World::new();
    let mut puppet = world.puppet();
    assert_eq!(puppet.ask("call 100"), "ok");
    let mut counter = counter(&world);
    assert_eq!(counter.ask("total"), "0");
    assert_eq!(puppet.ask("call 50"), "ok");
    assert_eq!(counter.ask("total"), "50");
}

#[test]
fn attach_to_a_running_process_and_leave_it() {
    let world = World::new();
    let mut puppet = world.bare_puppet();
    let pid = puppet.pid().to_string();
    let (text, fds) = (puppet.ask("text"), puppet.ask("fds"));
    let mut counter = counter(&world);
    assert_eq!(puppet.ask("call 10"), "ok");
    assert_eq!(counter.ask("total"), "0");

    let attach = world.run(&["attach", &pid]);
    assert_eq!((attach.code, attach.stderr.as_str()), (0, ""), "{attach:?}");
    assert_eq!(puppet.ask("call 20"), "ok");
    assert_eq!(counter.ask("total"), "20");
    assert_ne!(puppet.ask("text"), text);

    let detach = world.run(&["detach", &pid]);
    assert_eq!((detach.code, detach.stderr.as_str()), (0, ""), "{detach:?}");
    assert_eq!(puppet.ask("call 40"), "ok");
    assert_eq!(counter.ask("total"), "20");
    assert_eq!((puppet.ask("text"), puppet.ask("fds")), (text, fds));

    let again = world.run(&["attach", &pid]);
    assert_eq!((again.code, again.stderr.as_str()), (0, ""), "{again:?}");
    assert_eq!(puppet.ask("call 5"), "ok");
    assert_eq!(counter.ask("total"), "25");
    puppet.tell("quit");
    let exit = puppet.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
}

#[test]
fn attach_before_the_tool() {
    let world = World::new();
    let mut puppet = world.bare_puppet();
    let attach = world.run(&["attach", &puppet.pid().to_string()]);
    assert_eq!(attach.code, 0, "{attach:?}");
    let mut counter = counter(&world);
    assert_eq!(puppet.ask("call 20"), "ok");
    assert_eq!(counter.ask("total"), "20");
}

#[test]
fn several_tools_on_several_targets() {
    let world = World::new();
    let mut puppets = [world.puppet(), world.puppet()];
    let mut counters = [counter(&world), counter(&world), counter(&world)];
    let mut ringless =
        world.fixture_tool("counter", &["-r"], &world.fixture("puppet"), "puppet_step");
    for puppet in &mut puppets {
        assert_eq!(puppet.ask("threads 2 500"), "ok");
    }
    for counter in &mut counters {
        assert_eq!(counter.ask("total"), "2000");
    }
    assert_eq!(ringless.ask("total"), "2000");

    // One leaves: the others count on.
    let [first, mut second, third] = counters;
    assert_eq!(first.finish().code, 0);
    assert_eq!(puppets[0].ask("call 7"), "ok");
    assert_eq!(second.ask("total"), "2007");
    third.kill();
    assert_eq!(puppets[1].ask("call 3"), "ok");
    assert_eq!(second.ask("total"), "2010");
    assert_eq!(ringless.ask("total"), "2010");
}

/// Counts, ends the tool by `signal` or in order, and looks at the text.
fn ends(signal: Option<Signal>) {
    let world = World::new();
    let mut puppet = world.puppet();
    let text = puppet.ask("text");
    let fds = world.bare_puppet().ask("fds");
    for _ in 0..3 {
        let mut counter = counter(&world);
        assert_ne!(puppet.ask("text"), text);
        assert_eq!(puppet.ask("call 10"), "ok");
        assert_eq!(counter.ask("total"), "10");
        match signal {
            Some(signal) => {
                counter.signal(signal);
                counter.finish();
            }
            None => assert_eq!(counter.finish().code, 0),
        }
        wait::until_true("the function's own bytes", wait::LONG, || {
            puppet.ask("text") == text
        });
        assert_eq!(puppet.ask("call 10"), "ok");
        world.expect_nothing_left();
    }
    // The agent opens files for moments only.
    wait::until_true("no more open files than before", wait::LONG, || {
        puppet.ask("fds") == fds
    });
}

#[test]
fn a_tool_that_exits_takes_its_probes_along() {
    ends(None);
}

#[test]
fn a_tool_that_is_killed_takes_its_probes_along() {
    ends(Some(Signal::SIGKILL));
}

#[test]
fn a_tool_that_is_interrupted_takes_its_probes_along() {
    ends(Some(Signal::SIGINT));
}
