//! Guests that want more than there is: time, memory, tables, objects.

use std::fs;

use bpftime_tests::wat::{self, PLAIN};
use bpftime_tests::{Program, World};

use super::{FAULT, LIMIT, ends};
use crate::objects::{run, text};

#[test]
fn bombs_and_loops() {
    let world = World::new();
    let start = |body: &str| format!("(module (func (export \"_start\") {body}))");
    let timeout = ["--timeout", "0.3"];
    let over = "bpftime: M: was ended after 0.3 seconds: give it more by --timeout\n";
    for (options, module, code, said) in [
        (&timeout[..], start("(loop $l (br $l))"), 124, over.to_owned()),
        (
            &timeout[..],
            "(module (func $begin (loop $l (br $l))) (start $begin) (func (export \"_start\")))".to_owned(),
            124,
            over.to_owned(),
        ),
        (
            &[],
            "(module (func $f (export \"_start\") (call $f)))".to_owned(),
            134,
            format!("bpftime: M: ended by a trap: wasm trap: call stack exhausted: {FAULT}\n"),
        ),
        (
            &[],
            "(module (func $begin (unreachable)) (start $begin) (func (export \"_start\")))".to_owned(),
            134,
            format!("bpftime: M: ended by a trap: wasm trap: wasm `unreachable` instruction executed: {FAULT}\n"),
        ),
        (
            &[],
            "(module (memory 8193) (func (export \"_start\")))".to_owned(),
            126,
            format!("bpftime: M: cannot be started (memory minimum size of 8193 pages exceeds memory limits): {LIMIT}\n"),
        ),
        (
            &["--max-memory", "1"],
            "(module (memory 1) (func (export \"_start\")
               (if (i32.ne (memory.grow (i32.const 15)) (i32.const 1)) (then unreachable))
               (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))))".to_owned(),
            0,
            String::new(),
        ),
        (
            &[],
            "(module (table 1 funcref) (func (export \"_start\")
               (if (i32.ne (table.grow (ref.null func) (i32.const 1048576)) (i32.const -1)) (then unreachable))
               (if (i32.ne (table.grow (ref.null func) (i32.const 1048575)) (i32.const 1)) (then unreachable))))".to_owned(),
            0,
            String::new(),
        ),
        (
            &[],
            "(module (table 1048577 funcref) (func (export \"_start\")))".to_owned(),
            126,
            format!("bpftime: M: cannot be started (table minimum size of 1048577 elements exceeds table limits): {LIMIT}\n"),
        ),
        (
            &[],
            format!("(module {} (func (export \"_start\")))", "(table 1 funcref)".repeat(9)),
            126,
            format!("bpftime: M: cannot be started (resource limit exceeded: table count too high at 9): {LIMIT}\n"),
        ),
        (
            &[],
            "(module (memory 1) (data (i32.const 65535) \"ab\") (func (export \"_start\")))".to_owned(),
            134,
            format!("bpftime: M: ended by a trap: wasm trap: out of bounds memory access: {FAULT}\n"),
        ),
    ] {
        assert_eq!(ends(&world, options, &module), (code, said), "{module}");
    }
    world.expect_nothing_left();
}

#[test]
fn ten_thousand_objects() {
    let world = World::new();
    // As many as there may be, twice: what is closed makes room.
    let each = "(local $n i32) (local $got i32) (local $round i32)
        (loop $again
          (local.set $n (i32.const 0))
          (local.set $got (i32.const 0))
          (loop $one
            (if (i64.ne (call $load (i32.const 65536) (i32.const SIZE)) (i64.const 0)) (then
              (local.set $got (i32.add (local.get $got) (i32.const 1)))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $one (i32.lt_u (local.get $n) (i32.const 5000))))
          (local.set $n (i32.const 1))
          (loop $close
            (drop (call $close (i64.extend_i32_u (local.get $n))))
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $close (i32.le_u (local.get $n) (i32.const 128))))
          (call $tell (local.get $got))
          (call $pause)
          (local.set $round (i32.add (local.get $round) (i32.const 1)))
          (br_if $again (i32.lt_u (local.get $round) (i32.const 2))))";
    let module = wat::guest(&world, PLAIN, "", "", each);
    let mut guest = Program::on_pipes(run(&world, &[text(&module)]));
    let mut fds = Vec::new();
    for _ in 0..2 {
        assert_eq!(guest.line(), "64");
        guest.wait_stderr("a module has as many objects as it may have");
        let path = format!("/proc/{}/fd", guest.pid());
        fds.push(fs::read_dir(path).expect("its fds").count());
        guest.tell("");
    }
    assert_eq!(fds[0], fds[1], "fds are left");
    let exit = guest.finish();
    assert_eq!(exit.code, 0, "{exit:?}");
    world.expect_nothing_left();
}
