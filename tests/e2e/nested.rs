//! Maps in maps, which come and go while programs look into them.

use bpftime_tests::{Program, World};

use crate::oracle::same;

fn calls(puppet: &mut Program, number: u32) {
    assert_eq!(puppet.ask(&format!("call {number}")), "ok");
}

/// Declared by libbpf, then replaced, taken away and put back: each call
/// counts in the map that lay in place when it was made.
#[test]
fn each_call_counts_in_the_map_in_place() {
    let said = same(|world| {
        let path = world.fixture("puppet");
        let mut tool = world.fixture_tool("nested", &[], &path, "puppet_step");
        let mut puppet = world.puppet();
        let mut said = Vec::new();
        calls(&mut puppet, 10);
        for (place, number) in [("second", 20), ("none", 30), ("first", 40), ("second", 50)] {
            said.push(tool.ask(place));
            calls(&mut puppet, number);
            said.push(tool.ask("counts"));
        }
        said.push(tool.ask("fresh"));
        for number in 0..60 {
            calls(&mut puppet, number);
            said.push(tool.ask("fresh"));
        }
        for number in 0..3 {
            for parity in 0..2 {
                said.push(tool.ask(&format!("hash {parity}")));
                said.push(tool.ask(&format!("parity {parity}")));
                calls(&mut puppet, 100 + number);
                said.push(tool.ask(&format!("hash {parity}")));
            }
        }
        said.push(tool.ask("guarded"));
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        said.join("\n")
    });
    assert!(
        said.starts_with(
            "ok\n10 20 0 0\nok\n10 20 30 0\nok\n50 20 30 0\nok\n50 70 30 0\n-1\n0\n1\n"
        ),
        "{said}"
    );
    assert!(said.ends_with("8 keys, 51 calls\n0 2526 7578"), "{said}");
}

/// Maps come and go while threads of several targets look into them, and
/// what is replaced counts no more.
#[test]
fn maps_are_replaced_under_load() {
    let world = World::new();
    let path = world.fixture("puppet");
    let mut tool = world.fixture_tool("nested", &[], &path, "puppet_step");
    let mut puppets = [world.puppet(), world.puppet()];
    for puppet in &mut puppets {
        puppet.tell("threads 2 200000");
    }
    let mut counted = 0;
    assert_eq!(tool.ask("fresh"), "-1");
    for _ in 0..200 {
        counted += tool.ask("fresh").parse::<u64>().expect("a count");
    }
    for puppet in &mut puppets {
        assert_eq!(puppet.line(), "ok");
    }
    counted += tool.ask("fresh").parse::<u64>().expect("a count");
    let counts = tool.ask("counts");
    let counts: Vec<u64> = counts
        .split(' ')
        .map(|n| n.parse().expect("a count"))
        .collect();
    // A run may count in a map that was read before it: at most one a thread
    // and replacement.
    let sum = counted + counts[0] + counts[2];
    assert!((800_000 - 4 * 201..=800_000).contains(&sum), "{sum}");
    assert_eq!(counts[2], 0, "always a map in place");
    assert_eq!(tool.ask("guarded"), "0 800000 2400000");
    assert_eq!(puppets[0].ask("call 7"), "ok");
    assert_eq!(tool.ask("fresh"), "7");
}
