//! Wasm guests that mean no good, or are broken: what is wrong is an errno for
//! them or a line for their user, and nothing is left behind.
//!
//! This file: calls with arguments that are none. `callbacks`: what functions do
//! that get records. `shapes`: the imports' types. `limits`, `refused`: what ends
//! a guest, and what never begins.

mod callbacks;
mod limits;
mod refused;
mod shapes;

use bpftime_tests::wat::{self, END, PLAIN, name};
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
