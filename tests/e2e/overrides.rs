//! Programs that decide what a function returns. The kernel has no such thing
//! for user space.

use bpftime_tests::{Program, World};

/// A tool and a target, each ready.
fn scene(world: &World) -> (Program, Program) {
    let path = world.fixture("values");
    let words = [world.fixture("overrides"), path.clone()];
    let mut tool = Program::on_pipes(world.tool(&words));
    assert_eq!(tool.line(), "ready");
    let mut target = world.start(&[path]);
    assert_eq!(target.line(), "ready");
    (tool, target)
}

fn tell(tool: &mut Program, line: &str) {
    assert_eq!(tool.ask(line), "ok", "{line}");
}

/// What the functions of `values` compute for 5, and for -2.
const OWN: [(&str, &str, &str); 7] = [
    ("int", "6", "-1"),
    ("double", "12.5", "5.5"),
    ("pair", "9", "2"),
    ("large", "17", "10"),
    ("mixed", "2.5", "2.5"),
    ("many", "899", "892"),
    ("variadic", "47", "19"),
];

#[test]
fn functions_with_arguments_and_results_of_every_kind() {
    let world = World::new();
    let (mut tool, mut target) = scene(&world);
    for (name, of_five, of_minus_two) in OWN {
        assert_eq!(target.ask(&format!("call {name} 5")), of_five, "{name}");
        assert_eq!(
            target.ask(&format!("call {name} -2")),
            of_minus_two,
            "{name}"
        );
    }
    for (name, ..) in OWN {
        let cookie = u32::from(["double", "mixed"].contains(&name));
        tell(&mut tool, &format!("override value_{name} {cookie}"));
    }
    for (name, of_five, _) in OWN {
        assert_eq!(target.ask(&format!("call {name} 5")), of_five, "{name}");
        let forced = match name {
            "double" | "mixed" => "0.5",
            _ => "2000",
        };
        assert_eq!(target.ask(&format!("call {name} -2")), forced, "{name}");
    }
    // Every thread has verdicts of its own.
    assert_eq!(target.ask("threads 8 20000"), "ok");
    for place in 0..OWN.len() {
        tell(&mut tool, &format!("close {place}"));
    }
    for (name, _, of_minus_two) in OWN {
        assert_eq!(
            target.ask(&format!("call {name} -2")),
            of_minus_two,
            "{name}"
        );
    }
}

#[test]
fn return_probes_see_what_callers_get() {
    let world = World::new();
    let (mut tool, mut target) = scene(&world);
    tell(&mut tool, "back value_int");
    tell(&mut tool, "override value_int 0");
    assert_eq!(
        (target.ask("call int 5"), tool.ask("seen")),
        ("6".into(), "6".into())
    );
    assert_eq!(
        (target.ask("call int -3"), tool.ask("seen")),
        ("3000".into(), "3000".into())
    );
    // Of several programs the one that runs last decides: the oldest.
    tell(&mut tool, "override value_int 77");
    assert_eq!(target.ask("call int -3"), "3000");
    tell(&mut tool, "close 1");
    assert_eq!(
        (target.ask("call int -3"), tool.ask("seen")),
        ("77".into(), "77".into())
    );
    tell(&mut tool, "close 0");
    assert_eq!(
        (target.ask("call int -3"), tool.ask("seen")),
        ("77".into(), "77".into())
    );
}

#[test]
fn a_program_in_place_of_a_function() {
    let world = World::new();
    let (mut tool, mut target) = scene(&world);
    tell(&mut tool, "replace value_int");
    tell(&mut tool, "peer value_many");
    assert_eq!(
        (target.ask("call int 5"), target.ask("call int -1")),
        ("35".into(), "-7".into())
    );
    assert_eq!(
        (target.ask("call many 5"), target.ask("call many -2")),
        ("899".into(), "2000".into())
    );
    let status = world.run(&["status"]).stdout;
    assert!(status.contains("replace"), "{status}");
    tell(&mut tool, "close 0");
    tell(&mut tool, "close 1");
    assert_eq!(
        (target.ask("call int 5"), target.ask("call many -2")),
        ("6".into(), "892".into())
    );
}

#[test]
fn where_nothing_can_be_overridden_the_reason_is_told() {
    let world = World::new();
    let (mut tool, mut target) = scene(&world);
    tell(&mut tool, "on_return value_int");
    assert_eq!(target.ask("call int -3"), "-2");
    let status = world.run(&["status"]).stdout;
    assert!(
        status.contains("bpf_override_return works at a function's entry (uprobe) only"),
        "{status}"
    );
}
