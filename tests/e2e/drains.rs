//! User ring buffers: what a tool sends, programs take in.

use bpftime_tests::{Program, World};

use crate::oracle::same;

fn pair(world: &World) -> (Program, Program) {
    let path = world.fixture("puppet");
    let tool = world.fixture_tool("drains", &[], &path, "puppet_step");
    (tool, world.puppet())
}

/// Plays lines: those with `call` to the puppet, others to the tool.
fn play(tool: &mut Program, puppet: &mut Program, lines: &[&str]) -> String {
    let mut said = Vec::new();
    for line in lines {
        let program = match line.starts_with("call ") {
            true => &mut *puppet,
            false => &mut *tool,
        };
        said.push(format!("{line}: {}", program.ask(line)));
    }
    said.join("\n")
}

#[test]
fn samples_are_drained_as_by_the_kernel() {
    let said = same(|world| {
        let (mut tool, mut puppet) = pair(world);
        let story = [
            "map",
            "room",
            "call 1",
            "seen",
            "send 5 3 16",
            "call 1",
            "seen",
            // Long ones, across the end; the callback stops at 77.
            "send 3 4 1000",
            "call 1",
            "seen",
            "send 2 77 900",
            "send 1 5 1200",
            "call 1",
            "seen",
            "call 1",
            "seen",
            "call 1",
            "seen",
            // Full, also to poll(2).
            "send 1000 1 16",
            "room",
            "call 1",
            "seen",
            "room",
            "send 1 1 4088",
            "room",
            "send 1 1 4089",
            "call 1",
            "seen",
            "small 4",
            "discard 3",
            "send 1 9 24",
            "call 1",
            "seen",
            "discard 1",
            "call 1",
            "seen",
            "flags 1",
            "send 2 1 16",
            "call 2",
            "seen",
            "flags 2",
            "call 1",
            "seen",
            "flags 4",
            "send 1 1 16",
            "call 1",
            "seen",
            "flags 3",
            "call 1",
            "seen",
        ];
        play(&mut tool, &mut puppet, &story)
    });
    assert!(said.contains("room: room 0\n"), "{said}");
    assert!(said.contains("wrong 0 returned 5 nested -16"), "{said}");
}

/// What a tool may write that no library does.
#[test]
fn nonsense_from_the_tool_is_refused_as_by_the_kernel() {
    for line in [
        "put 4 100",
        "put 8 1",
        "put 8 0",
        "put 16 8",
        "put 100000 5000",
        "put 100000 4089",
        "put 100000 4088",
        "put 18446744073709551608 8",
        "put 100000 3221225472",
        "put 4096 1073741823",
        "put 100000000 20000000",
        "put 4096 2147483656",
        "put 4096 1073741832",
        "put 4096 4294967295",
    ] {
        same(|world| {
            let (mut tool, mut puppet) = pair(world);
            let story = ["send 3 1 40", "call 1", line, "call 1", "seen", "room"];
            play(&mut tool, &mut puppet, &story)
        });
    }
}

/// A tool that waits for room gets it when a program has drained.
#[test]
fn who_waits_for_room_is_woken() {
    let world = World::new();
    let (mut tool, mut puppet) = pair(&world);
    assert_eq!(tool.ask("wait 0"), "sent");
    assert_eq!(tool.ask("wait 20"), "error 28");
    for _ in 0..50 {
        tool.tell("wait 20000");
        assert_eq!(puppet.ask("call 1"), "ok");
        assert_eq!(tool.line(), "sent");
    }
    assert_eq!(puppet.ask("call 1"), "ok");
    let seen = tool.ask("seen");
    assert!(seen.contains("samples 51 "), "{seen}");
}

/// Many threads of several targets drain at once: each sample once.
#[test]
fn each_sample_is_taken_once() {
    let world = World::new();
    let (mut tool, mut first) = pair(&world);
    let mut second = world.puppet();
    let mut sent = 0;
    for puppet in [&mut first, &mut second] {
        puppet.tell("threads 2 100000");
    }
    for _ in 0..300 {
        let said = tool.ask("send 64 2 24");
        sent += said
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0u64);
    }
    assert_eq!((first.line(), second.line()), ("ok".into(), "ok".into()));
    assert_eq!(first.ask("call 1"), "ok");
    let seen = tool.ask("seen");
    let wanted = format!("samples {sent} sum {} small 0 wrong 0 ", 2 * sent);
    assert!(seen.contains(&wanted), "{wanted}: {seen}");
    assert!(sent > 100, "{sent}");
}
