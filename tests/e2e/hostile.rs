//! Wasm guests that mean no good, or are broken: what is wrong is an errno for
//! them or a line for their user, and nothing is left behind.

use std::fs;

use bpftime_tests::wat::{self, END, PLAIN, Shape, name};
use bpftime_tests::{Program, World};

use crate::objects::{run, text};
use crate::oracle::same;

/// Runs a guest to its end and returns its status and what it said.
fn told(world: &World, items: &str, body: &str) -> (i32, String) {
    let module = wat::guest(world, PLAIN, "", items, body);
    let exit = Program::on_pipes(run(world, &[text(&module)])).finish();
    (
        exit.code,
        exit.stdout.replace('\n', " ").trim_end().to_owned(),
    )
}

/// The calls, each with what is to come of it, in both worlds.
fn expect(calls: &[(String, i64)]) {
    let body: String = calls.iter().map(|(call, _)| call.as_str()).collect();
    let said = same(|world| {
        let (code, said) = told(world, CALLBACKS, &body);
        assert_eq!(code, 0, "{said}");
        said
    });
    let said: Vec<&str> = said.split(' ').collect();
    assert_eq!(said.len(), calls.len(), "{said:?}");
    for (said, (call, expected)) in said.into_iter().zip(calls) {
        assert_eq!(said, expected.to_string(), "{call}");
    }
}

/// Callbacks by their places in the table: 1 is right, 2 has another type, 0 and 3 are none.
const CALLBACKS: &str = "
  (func $right (type $callback) (i32.const 0))
  (func $wrong (param i64))
  (elem (i32.const 1) $right $wrong)";

fn load(at: i64, size: &str) -> String {
    format!("(call $say (call $load (i32.const {at}) (i32.const {size})))")
}

fn close(object: i64) -> String {
    format!("(call $tell (call $close (i64.const {object})))")
}

fn map(object: i64, name: i64) -> String {
    format!("(call $tell (call $map (i64.const {object}) (i32.const {name})))")
}

fn attach(object: i64, program: i64, target: i64) -> String {
    format!(
        "(call $tell (call $attach (i64.const {object}) (i32.const {program}) (i32.const {target})))"
    )
}

fn attach_fd(object: i64, program: i64, fd: i64) -> String {
    format!(
        "(call $tell (call $attach_fd (i64.const {object}) (i32.const {program}) (i32.const {fd})))"
    )
}

fn operate(fd: i64, command: i64, key: i64, value: i64, next: i64, flags: i64) -> String {
    format!(
        "(call $tell (call $operate (i32.const {fd}) (i32.const {command}) (i32.const {key}) \
         (i32.const {value}) (i32.const {next}) (i64.const {flags})))"
    )
}

fn poll(object: i64, fd: i64, function: i64, data: i64, size: i64) -> String {
    format!(
        "(call $tell (call $poll (i64.const {object}) (i32.const {fd}) (i32.const {function}) \
         (i32.const 0) (i32.const {data}) (i32.const {size}) (i32.const 0)))"
    )
}

const EBADF: i64 = -(libc::EBADF as i64);
const EFAULT: i64 = -(libc::EFAULT as i64);
const EINVAL: i64 = -(libc::EINVAL as i64);
const ENOENT: i64 = -(libc::ENOENT as i64);
/// The first fd of a map.
const FIRST: i64 = 65536;
const OBJECT: i64 = 65536;
const RECORD: i64 = 1024;
const PAST: i64 = END as i64;

#[test]
fn objects_that_are_none() {
    let ring = i64::from(name("ring"));
    let on_call = i64::from(name("on_call"));
    let no_such = i64::from(name("no_such"));
    expect(&[
        (load(0, "64"), 0),
        (load(OBJECT, "100"), 0),
        (load(OBJECT, "0"), 0),
        (load(OBJECT, "-1"), 0),
        (load(PAST - 4, "100"), 0),
        (load(-1, "100"), 0),
        (load(OBJECT, "SIZE"), 1),
        (load(OBJECT, "SIZE"), 2),
        (close(0), EINVAL),
        (close(3), EINVAL),
        (close(-1), EINVAL),
        (map(3, ring), EINVAL),
        (map(1, no_such), ENOENT),
        (map(1, 0), EFAULT),
        (map(1, -1), EFAULT),
        (map(1, PAST), EFAULT),
        (
            format!(
                "(i32.store8 (i32.const {}) (i32.const 120)) {}",
                PAST - 1,
                map(1, PAST - 1)
            ),
            EFAULT,
        ),
        (map(1, ring), FIRST),
        (map(2, ring), FIRST + 1),
        (map(1, ring), FIRST),
        (attach(3, on_call, 0), EINVAL),
        (attach(1, 0, 0), EFAULT),
        (attach(1, no_such, 0), ENOENT),
        (attach(1, on_call, 0), EINVAL),
        (attach(1, on_call, no_such), EINVAL),
        (attach(1, on_call, PAST), EFAULT),
        (attach(1, on_call, 256), 0),
        (attach(1, on_call, 256), 0),
        (attach_fd(1, no_such, 3), ENOENT),
        (attach_fd(3, on_call, 3), EINVAL),
        (attach_fd(1, on_call, 3), EINVAL),
        (attach_fd(1, name("on_enter").into(), 3), 0),
        (close(2), 0),
        (close(2), EINVAL),
        (attach(2, on_call, 256), EINVAL),
        (operate(FIRST + 1, 2, RECORD, RECORD, 0, 0), EBADF),
        (poll(2, FIRST, 1, RECORD, 64), ENOENT),
        (poll(1, FIRST + 1, 1, RECORD, 64), EBADF),
        (load(OBJECT, "SIZE"), 3),
        (map(3, ring), FIRST + 2),
        (poll(3, FIRST, 1, RECORD, 64), ENOENT),
    ]);
}

#[test]
fn elements_that_are_none() {
    let cpus = libbpf_rs::num_possible_cpus().expect("processors") as i64;
    let (counts, sums) = (FIRST, FIRST + 1);
    expect(&[
        (load(OBJECT, "SIZE"), 1),
        (map(1, name("counts").into()), counts),
        (map(1, name("sums").into()), sums),
        (operate(0, 1, RECORD, RECORD, 0, 0), EBADF),
        (operate(1, 2, RECORD, RECORD, 0, 0), EBADF),
        (operate(-1, 1, RECORD, RECORD, 0, 0), EBADF),
        (operate(counts, 0, RECORD, RECORD, RECORD, 0), EINVAL),
        (operate(counts, 5, RECORD, RECORD, RECORD, 0), EINVAL),
        (operate(counts, -1, RECORD, RECORD, RECORD, 0), EINVAL),
        (operate(counts, 4, 0, 0, RECORD, 0), ENOENT),
        (operate(counts, 1, RECORD, RECORD + 8, 0, 0), ENOENT),
        (operate(counts, 2, PAST - 3, RECORD, 0, 0), EFAULT),
        (operate(counts, 2, RECORD, PAST - 7, 0, 0), EFAULT),
        (operate(counts, 2, -4, RECORD, 0, 0), EFAULT),
        (operate(counts, 2, RECORD, RECORD, 0, 99), EINVAL),
        (operate(counts, 2, PAST - 4, PAST - 8, 0, 0), 0),
        (
            operate(counts, 2, PAST - 4, PAST - 8, 0, 1),
            -i64::from(libc::EEXIST),
        ),
        (operate(counts, 1, PAST - 4, PAST - 7, 0, 0), EFAULT),
        (operate(counts, 1, PAST - 4, PAST - 8, 0, 0), 0),
        (operate(counts, 4, 0, 0, PAST - 3, 0), EFAULT),
        (operate(counts, 4, 0, 0, PAST - 4, 0), 0),
        (operate(counts, 3, PAST - 3, 0, 0, 0), EFAULT),
        (operate(counts, 3, RECORD, 0, 0, 0), 0),
        (operate(counts, 3, RECORD, 0, 0, 0), ENOENT),
        // All processors' values, each of eight bytes though it has four.
        (operate(sums, 1, RECORD, PAST - 8 * cpus + 1, 0, 0), EFAULT),
        (operate(sums, 1, RECORD, PAST - 8 * cpus, 0, 0), 0),
        (operate(sums, 2, RECORD, PAST - 8 * cpus + 1, 0, 0), EFAULT),
        (operate(sums, 2, RECORD, PAST - 8 * cpus, 0, 0), 0),
    ]);
}

#[test]
fn records_for_nobody() {
    let ring = FIRST;
    expect(&[
        (load(OBJECT, "SIZE"), 1),
        (map(1, name("ring").into()), ring),
        (map(1, name("counts").into()), ring + 1),
        (map(1, name("perf").into()), ring + 2),
        (poll(1, ring, 1, RECORD, 64), 0),
        (poll(1, ring + 2, 1, RECORD, 64), 0),
        (poll(1, ring + 1, 1, RECORD, 64), EINVAL),
        (poll(9, ring, 1, RECORD, 64), ENOENT),
        (poll(1, 3, 1, RECORD, 64), EBADF),
        (poll(1, ring, 0, RECORD, 64), EINVAL),
        (poll(1, ring, 2, RECORD, 64), EINVAL),
        (poll(1, ring, 3, RECORD, 64), EINVAL),
        (poll(1, ring, 8, RECORD, 64), EINVAL),
        (poll(1, ring, -1, RECORD, 64), EINVAL),
        (poll(1, ring, 1, RECORD, -1), EINVAL),
        (poll(1, ring, 1, PAST - 63, 64), EFAULT),
        (poll(1, ring, 1, -1, 64), EFAULT),
        (poll(1, ring, 1, PAST - 64, 64), 0),
        // A perf buffer's map is no place for a guest's numbers.
        (
            operate(ring + 2, 2, RECORD, RECORD, 0, 0),
            -i64::from(libc::EPERM),
        ),
    ]);
}

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

/// A callback at index 1 that says each record's first number, then does `what`.
fn callback(what: &str) -> String {
    format!(
        "(func $callback (type $callback)
           (call $tell (i32.load (local.get 1)))
           {what}
           (i32.const 0))
         (elem (i32.const 1) $callback)"
    )
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

#[test]
fn every_shape_of_the_imports() {
    let story = |shape: Shape, extra: &str, items: &str, options: &[&str], poll: &str| {
        let world = World::new();
        let p = shape.pointer;
        let pause = "(call $pause)";
        let body = format!(
            "(call $say (call $load ({p}.const {OBJECT}) (i32.const SIZE)))
             (call $tell (call $map (i64.const 1) ({p}.const {ring})))
             (call $tell (call $map (i64.const 1) ({p}.const {counts})))
             (call $tell (call $attach_fd (i64.const 1) ({p}.const {on_call}) (i32.const -1)))
             (call $tell (call $attach (i64.const 1) ({p}.const {on_call}) ({p}.const 256)))
             {pause}
             {poll}
             (call $tell (call $operate (i32.const {map}) (i32.const 4) ({p}.const 0) ({p}.const 0) ({p}.const 1024) (i64.const 0)))
             (call $tell (call $operate (i32.const {map}) (i32.const 1) ({p}.const 1024) ({p}.const 1032) ({p}.const 0) (i64.const 0)))
             (call $say (i64.load (i32.const 1032)))
             (call $tell (call $close (i64.const 1)))",
            ring = name("ring"),
            counts = name("counts"),
            on_call = name("on_call"),
            map = FIRST + 1,
        );
        let module = wat::guest(&world, shape, extra, items, &body);
        let mut words = options.to_vec();
        words.push(text(&module));
        let mut guest = Program::on_pipes(run(&world, &words));
        guest.lines_until(|line| line == "0");
        let target = world.fixture("tgt");
        assert_eq!(world.start(&[text(&target), "1", "0"]).finish().code, 0);
        guest.tell("");
        let exit = guest.finish();
        assert_eq!(exit.code, 0, "{exit:?}");
        exit.stdout.replace('\n', " ")
    };
    let expected = "1 65536 65537 -22 0 0 1 0 0 1 0 ";
    for namespace in ["wasm_bpf", "env"] {
        for pointer in ["i32", "i64"] {
            let shape = Shape { namespace, pointer };
            let poll = format!(
                "(call $tell (call $poll (i64.const 1) (i32.const {FIRST}) (i32.const 1) (i32.const 0)
                   ({pointer}.const 1024) (i32.const 64) (i32.const 10000)))"
            );
            let said = story(shape, "", &callback(""), &[], &poll);
            assert_eq!(said, expected, "{shape:?}");
        }
    }
    // Compilers whose functions are in no table.
    for (wrapper, export, options) in [
        ("callback-wrapper", "go-callback", vec![]),
        (
            "w",
            "c",
            vec!["--wrapper-module-name", "w", "--callback-export-name=c"],
        ),
    ] {
        let extra = format!(
            "(import \"{wrapper}\" \"wasm_bpf_buffer_poll\"
               (func $poll_exported (param i64 i32 i32 i32 i32 i32) (result i32)))"
        );
        let items = format!(
            "(func (export \"{export}\") (type $callback) (call $tell (i32.load (local.get 1))) (i32.const 0))"
        );
        let poll = format!(
            "(call $tell (call $poll_exported (i64.const 1) (i32.const {FIRST}) (i32.const 0)
               (i32.const 1024) (i32.const 64) (i32.const 10000)))"
        );
        assert_eq!(
            story(PLAIN, &extra, &items, &options, &poll),
            expected,
            "{wrapper}"
        );
    }
}

/// Runs a module given as text and returns its status, and what it and the host say.
fn ends(world: &World, options: &[&str], module: &str) -> (i32, String) {
    let path = wat::write(world, module);
    let mut words = options.to_vec();
    words.push(text(&path));
    let exit = Program::on_pipes(run(world, &words)).finish();
    let told = exit.stderr.replace(text(&path), "M");
    (exit.code, format!("{}{told}", exit.stdout))
}

const FAULT: &str = "it is the module's own fault; ask who made it";
const LIMIT: &str = "see bpftime run --help for its limits";

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

#[test]
fn modules_that_cannot_be_run_are_refused_in_a_line() {
    let world = World::new();
    let see = "see docs/support.md for what modules may import";
    let wasi = "(import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))";
    for (module, said) in [
        (
            "(module (import \"test\" \"plus\" (func)))".to_owned(),
            format!("imports test.plus, which bpftime does not have: {see}"),
        ),
        (
            "(module (import \"env\" \"memory\" (memory 1)))".to_owned(),
            format!("imports env.memory, which bpftime does not have: {see}"),
        ),
        (
            "(module (import \"wasm_bpf\" \"wasm_close_bpf_object\" (func (param i32) (result i32))))".to_owned(),
            format!("imports wasm_bpf.wasm_close_bpf_object with a type that it never had: {see}"),
        ),
        (
            "(module (import \"wasm_bpf\" \"wasm_close_bpf_object\" (global i32)))".to_owned(),
            format!("imports wasm_bpf.wasm_close_bpf_object, which bpftime does not have: {see}"),
        ),
        (
            "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)))".to_owned(),
            format!("imports wasi_snapshot_preview1.fd_write with a type that it never had: {see}"),
        ),
        (
            format!("(module {wasi} (func (export \"_start\")))"),
            "exports no memory: link it with --export-memory".to_owned(),
        ),
        (
            "(module (func (export \"_initialize\")))".to_owned(),
            "has no function _start: build it as a command, not as a library".to_owned(),
        ),
        (
            "(module (func (export \"_start\") (param i32)))".to_owned(),
            "has no function _start: build it as a command, not as a library".to_owned(),
        ),
    ] {
        let expected = (126, format!("bpftime: M: {said}\n"));
        assert_eq!(ends(&world, &[], &module), expected, "{module}");
    }
    let path = world.home().join("guest.wasm");
    let whole = fs::read(world.fixture("steps.wasm")).expect("a module");
    let told = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("a file");
        let exit = world.run(&["run", text(&path)]);
        (exit.code, exit.stderr.replace(text(&path), "M"))
    };
    let damaged = "compile it again: the file is damaged or made for something else\n";
    let not = |why: &str| {
        (
            126,
            format!("bpftime: M: is no Wasm module ({why}): {damaged}"),
        )
    };
    assert_eq!(
        told(b"\0asm"),
        not("unexpected end-of-file (at offset 0x4)")
    );
    let (code, line) = told(&whole[..whole.len() / 2]);
    let start = "bpftime: M: is no Wasm module (unexpected end-of-file (at offset 0x";
    assert!(code == 126 && line.starts_with(start), "{code} {line}");
    assert_eq!(
        told(b"\0asm\x0d\0\x01\0"),
        (126, "bpftime: M: is a Wasm component, which bpftime cannot run: build it for wasm32-wasip1\n".to_owned())
    );
    let mut large = b"\0asm\x01\0\0\0".to_vec();
    large.resize((64 << 20) + 1, 0);
    assert_eq!(
        told(&large),
        (126, "bpftime: M: is larger than the 67108864 bytes that a module may have: strip it, or load its data by --dir\n".to_owned())
    );
}
