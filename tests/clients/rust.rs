//! Tools in Rust with their own loaders: aya, and libbpf-rs with the current
//! libbpf.

use std::fs;
use std::path::Path;

use bpftime_tests::{Program, World};

use crate::table::both;

/// A tool among the binaries of this crate, as a file that any user can run.
fn copy(world: &World, binary: &str) -> String {
    let path = world
        .home()
        .join(Path::new(binary).file_name().expect("a name"));
    fs::copy(binary, &path).expect("a copy of the tool");
    path.display().to_string()
}

/// What a tool shows of five rounds that take a tenth of a millisecond each,
/// and of five more that another process makes.
fn shown(world: &World, binary: &str, object: &str) -> Vec<String> {
    let path = world.fixture("rounds").display().to_string();
    let object = world.fixture(object).display().to_string();
    let mut work = world.start(&[&path, "5", "100", "wait"]);
    assert_eq!(work.line(), format!("pid {}", work.pid()));
    let pid = work.pid().to_string();
    let mut tool = Program::on_pipes(world.tool(&[&copy(world, binary), &object, &path, &pid]));
    assert_eq!(tool.line(), "ready");
    assert_eq!(world.start(&[&path, "5"]).finish().code, 0);
    assert_eq!(work.ask("go"), "sum 65 right");
    tool.tell("show");
    let mut lines = tool.lines_until(|line| line == "end");
    assert_eq!(lines.pop().as_deref(), Some("end"));
    work.hang_up();
    assert_eq!(work.finish().code, 0);
    tool.hang_up();
    let exit = tool.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{exit:?}");
    lines
}

/// Of the fixture `traced`.
const TRACED: [&str; 12] = [
    "calls 5, sleeps 5",
    "entry 0 round-0",
    "entry 1 round-1",
    "entry 2 round-2",
    "entry 3 round-3",
    "entry 4 round-4",
    "length 8: 5",
    "result 10 cookie 77",
    "result 13 cookie 77",
    "result 16 cookie 77",
    "result 19 cookie 77",
    "result 7 cookie 77",
];

#[test]
fn aya_sees_probes_and_tracepoints() {
    both(|world| {
        let lines = shown(world, env!("CARGO_BIN_EXE_aya_tool"), "traced.bpf.o");
        assert_eq!(lines, TRACED, "{:?}", world.mode());
    });
}

#[test]
fn libbpf_rs_sees_probes_and_tracepoints() {
    both(|world| {
        let lines = shown(world, env!("CARGO_BIN_EXE_libbpf_rs_tool"), "traced.bpf.o");
        assert_eq!(lines, TRACED, "{:?}", world.mode());
    });
}

#[test]
fn libbpf_rs_attaches_to_many_places_at_once() {
    both(|world| {
        let binary = env!("CARGO_BIN_EXE_libbpf_rs_tool");
        let expected = [
            // By cookie: five calls each, and one in ten leaks.
            "entries [0, 5, 6, 1]",
            "exits [0, 5, 6, 1]",
            // Of calls 0 to 4, the even ones.
            "sessions [5, 3, 6]",
            "static probes 5",
            "version true",
        ];
        let lines = shown(world, binary, "several.bpf.o");
        assert_eq!(lines, expected, "{:?}", world.mode());
    });
}
