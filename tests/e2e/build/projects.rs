//! `bpftime new`: projects are built as their README says, and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpftime_tests::{Exit, Program, World};
use serde_json::{Value, json};

use super::{bytes, directory, done, names, run};
use crate::objects::{self, text};
use crate::oracle::same;

/// Records of a run, without those of processes by other names.
fn records(exit: &Exit, comm: &str) -> Vec<Value> {
    let lines = exit
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|record: &Value| record["comm"] == comm)
        .collect()
}

/// `bpftime new`, `bpftime build`, and the run that the README tells of.
fn project(world: &World, template: &str, app: &[&str]) -> Exit {
    let dir = directory(world, "work", &[]);
    let said = done(world, &dir, &["new", "first", "--template", template]);
    assert_eq!(
        said,
        "first: build it by bpftime build first.bpf.c first.h; README.md says how to run it\n"
    );
    let dir = dir.join("first");
    let made = [".gitignore", "README.md", "first.bpf.c", "first.h"];
    assert_eq!(names(&dir), made);
    done(world, &dir, &["build", "first.bpf.c", "first.h"]);
    let mut words = vec!["run", "--json", "first.bpf.o", "--"];
    words.extend(app);
    let exit = run(world, &dir, &words);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (0, "bpftime: attached; Ctrl-C ends\n")
    );
    exit
}

#[test]
fn the_project_of_a_probe_shows_names() {
    let world = World::new();
    let exit = project(&world, "uprobe", &["getent", "ahosts", "localhost"]);
    let records = records(&exit, "getent");
    assert_eq!(records.len(), 1, "{}", exit.stdout);
    assert_eq!(records[0]["name"], "localhost");
}

#[test]
fn the_project_of_a_system_call_shows_files() {
    let world = World::new();
    let exit = project(&world, "syscall", &["cat", "/etc/passwd"]);
    let records = records(&exit, "cat");
    let of_file = records
        .iter()
        .filter(|record| record["path"] == "/etc/passwd");
    assert_eq!(of_file.count(), 1, "{}", exit.stdout);
}

#[test]
fn the_project_of_a_histogram_counts_writes() {
    let world = World::new();
    let app = [
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=1k",
        "count=100",
        "status=none",
    ];
    let exit = project(&world, "histogram", &app);
    let mut slots = [0; 26];
    slots[10] = 100;
    let slots = json!(slots).to_string();
    assert!(exit.stdout.contains(&slots), "{}", exit.stdout);
}

#[test]
fn nobodys_files_are_written_over() {
    let world = World::new();
    let dir = directory(&world, "work", &[("there", "a file")]);
    let exit = run(&world, &dir, &["new", "there"]);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (
            1,
            "bpftime: there: is there already: choose another name, or remove it\n"
        )
    );
    let exit = run(&world, &dir, &["new", "a b"]);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (
            1,
            "bpftime: a b: is no name for a project: use letters, digits, - and _ only\n"
        )
    );
    assert_eq!(names(&dir), ["there"]);
    assert_eq!(bytes(&dir.join("there")), b"a file");
}

/// A project whose guest is built by `make`.
fn guest(world: &World, template: &str) -> PathBuf {
    let dir = directory(world, "a guest", &[]);
    let said = done(world, &dir, &["new", "first", "--template", template]);
    assert_eq!(
        said,
        "first: build it by make; README.md says how to run it\n"
    );
    dir.join("first")
}

/// What its README says to type.
fn steps(dir: &Path) -> Vec<String> {
    let readme = fs::read_to_string(dir.join("README.md")).expect("a README");
    let lines = readme.lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(str::to_owned).collect()
}

/// What a user types in a project.
fn typed(world: &World, dir: &Path, line: &str) -> Command {
    let mut command = world.plain(&["sh", "-c", &format!("exec {line}")]);
    let bpftime = world.binary();
    let bpftime = bpftime.parent().expect("a directory").display();
    let path = format!("{bpftime}:/usr/local/bin:/usr/bin:/bin");
    command.current_dir(dir).env("PATH", path);
    command
}

/// What a guest says of three calls, which two of them it is to tell, in a
/// world of either kind; its program is put on a function of `tgt`.
fn told(world: &World, module: &Path) -> String {
    let target = world.fixture("tgt");
    let place = format!("on_getaddrinfo={}:tgt_add", target.display());
    let words = ["--attach", &place, text(module), "2"];
    let mut guest = Program::on_pipes(objects::run(world, &words));
    guest.wait_stderr("attached; Ctrl-C ends");
    let started = world.start(&[text(&target), "3", "0"]);
    let pid = started.pid();
    assert_eq!(started.finish().code, 0);
    let lines = [guest.line(), guest.line()];
    let exit = guest.finish();
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (0, "attached; Ctrl-C ends\n")
    );
    lines.join("\n").replace(&pid.to_string(), "PID")
}

#[test]
fn the_project_of_a_guest_in_c_does_what_it_says() {
    let world = World::new();
    let dir = guest(&world, "wasm");
    let steps = steps(&dir);
    let expected = [
        "make",
        "bpftime run first.wasm 1",
        "bpftime start getent ahosts localhost",
        "apt install make clang lld wasi-libc libclang-rt-dev-wasm32",
    ];
    assert_eq!(steps, expected);
    let exit = Program::on_pipes(typed(&world, &dir, &steps[0])).finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    let guest = Program::on_pipes(typed(&world, &dir, &steps[1]));
    guest.wait_stderr("attached; Ctrl-C ends");
    let started = Program::on_pipes(typed(&world, &dir, &steps[2]));
    let pid = started.pid();
    assert_eq!(started.finish().code, 0);
    let exit = guest.finish();
    assert_eq!(
        (exit.code, exit.stdout),
        (0, format!("{pid} getent localhost\n"))
    );
    let said = same(|world| told(world, &dir.join("first.wasm")));
    assert_eq!(said, "PID tgt \nPID tgt ");
    let exit = Program::on_pipes(typed(&world, &dir, "make clean")).finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    let left = [
        ".gitignore",
        "Makefile",
        "README.md",
        "first.bpf.c",
        "first.c",
        "first.h",
    ];
    assert_eq!(names(&dir), left);
}

#[test]
fn the_project_of_a_guest_in_rust_does_what_it_says() {
    let world = World::new();
    let dir = guest(&world, "wasm-rust");
    let steps = steps(&dir);
    assert_eq!(
        steps[..2],
        ["make".to_owned(), "bpftime run first.wasm 1".to_owned()]
    );
    // Rust is the developer's here, not the user's.
    let made = Command::new("make")
        .args(["-s", &format!("CARGO={}", env!("CARGO"))])
        .arg(format!("BPFTIME={}", world.binary().display()))
        .env("BPFTIME_STATE_DIR", world.home().join("developer"))
        .env_remove("MAKEFLAGS")
        .current_dir(&dir)
        .output()
        .expect("make");
    let said = String::from_utf8_lossy(&made.stderr);
    assert_eq!((made.status.code(), &*said), (Some(0), ""));
    let said = same(|world| told(world, &dir.join("first.wasm")));
    assert_eq!(said, "PID tgt \nPID tgt ");
}

#[test]
fn no_crate_begins_with_a_digit() {
    let world = World::new();
    let dir = directory(&world, "work", &[]);
    let exit = run(&world, &dir, &["new", "1st", "--template", "wasm-rust"]);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (
            1,
            "bpftime: 1st: is no name for a crate: begin it with a letter\n"
        )
    );
    assert_eq!(names(&dir), Vec::<String>::new());
    let said = done(&world, &dir, &["new", "1st", "--template", "wasm"]);
    assert_eq!(
        said,
        "1st: build it by make; README.md says how to run it\n"
    );
    let exit = Program::on_pipes(typed(&world, &dir.join("1st"), "make")).finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
}
