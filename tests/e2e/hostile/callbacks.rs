//! Functions of guests that do what callers do not expect.

use bpftime_tests::wat::{self, PLAIN, name};
use bpftime_tests::{Program, World};

use super::{FIRST, OBJECT, RECORD, attach, callback, close, poll};
use crate::objects::{run, text};

/// What a guest says that has loaded its object, been attached, and polls once
/// four calls have been made and it was told to.
fn polled(world: &World, items: &str, behind: &str) -> (i32, String) {
    let body = format!(
        "(drop (call $load (i32.const {OBJECT}) (i32.const SIZE)))
         (drop (call $map (i64.const 1) (i32.const {ring})))
         {attach} (call $pause) {poll} {behind}",
        ring = name("ring"),
        attach = attach(1, name("on_call").into(), 256),
        poll = poll(1, FIRST, 1, RECORD, 64).replace("(i32.const 0))", "(i32.const 10000))"),
    );
    let module = wat::guest(world, PLAIN, "", items, &body);
    let mut guest = Program::on_pipes(run(world, &[text(&module)]));
    assert_eq!(guest.line(), "0");
    let target = world.fixture("tgt");
    assert_eq!(world.start(&[text(&target), "4", "0"]).finish().code, 0);
    guest.tell("");
    let exit = guest.finish();
    world.expect_nothing_left();
    let last = exit.stderr.lines().last().unwrap_or("");
    let last = last.rsplit("guest.wasm: ").next().unwrap_or("");
    let said = format!("{}{last}", exit.stdout);
    (exit.code, said.trim_end().replace('\n', " "))
}

#[test]
fn callbacks_that_do_what_callers_do_not_expect() {
    let once_more = poll(1, FIRST, 1, RECORD, 64);
    let at_second = |what: &str| {
        callback(&format!(
            "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
             (if (i32.eq (global.get $calls) (i32.const 2)) (then {what}))"
        ))
    };
    for (items, behind, code, expected) in [
        (callback(""), "", 0, "0 0 1 2 3 4"),
        // Its object goes from under it: the rest is gone, and the place, too.
        (at_second(&close(1)), once_more.as_str(), 0, "0 0 1 0 2 -9"),
        // It polls: the inner polls get what the outer ones then do not.
        (callback(&once_more), "", 0, "0 0 1 2 3 0 1 1 1 1"),
        (
            at_second("(return (i32.const -5))"),
            once_more.as_str(),
            0,
            "0 0 1 -5 2 3 2",
        ),
        (at_second("(call $exit (i32.const 7))"), "", 7, "0 0 1"),
        (at_second("(call $exit (i32.const -1))"), "", 255, "0 0 1"),
        (
            at_second("(unreachable)"),
            "",
            134,
            "0 0 1 ended by a trap: wasm trap: wasm `unreachable` instruction executed: \
             it is the module's own fault; ask who made it",
        ),
    ] {
        let said = polled(&World::new(), &items, behind);
        assert_eq!(said, (code, expected.to_owned()), "{items} {behind}");
    }
}
