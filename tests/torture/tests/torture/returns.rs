//! Functions that are left by other doors than return, and storms of signals,
//! processes and threads, with everything around them probed.

use std::path::{Path, PathBuf};

use crate::trial::{Mode, Trial, finish, is_long};

const MODES: [Mode; 2] = [Mode::Return, Mode::Toggle];

fn rounds(few: u32) -> String {
    (few * if is_long() { 50 } else { 1 }).to_string()
}

/// Compiles a target of the folder `targets`.
fn compiled(trial: &Trial, words: &[&str], source: &str) -> String {
    let target = trial.path("target");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/targets")
        .join(source);
    let source = source.to_string_lossy();
    let mut all = vec![words[0], &source, "-o"];
    let target = target.to_string_lossy().into_owned();
    all.push(&target);
    all.extend(&words[1..]);
    let output = finish(trial.plain(&all));
    assert!(output.status.success(), "{output:?}");
    target
}

/// What the C++ runtime and its unwinder need to leave functions.
fn small() -> Trial {
    Trial::new().only("target,libc.so,libstdc++,libgcc_s,libunwind,ld-linux,libboost")
}

#[test]
fn exceptions_jumps_and_ends_of_threads() {
    let trial = small();
    let target = compiled(&trial, &["g++", "-O2", "-g", "-pthread"], "leave.cpp");
    trial.same(&MODES, &[&target, &rounds(60)]);
}

#[test]
fn llvm_unwinder() {
    let versions =
        ["19", "14"].map(|version| format!("/usr/lib/llvm-{version}/lib/libunwind.so.1"));
    let Some(unwinder) = versions.iter().find(|path| Path::new(path).exists()) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "LLVM's libunwind is not installed; in CI nothing is left out"
        );
        return;
    };
    let trial = small().with_library(unwinder);
    let target = compiled(&trial, &["g++", "-O2", "-g", "-pthread"], "leave.cpp");
    trial.same(&MODES, &[&target, &rounds(60), "without ends of threads"]);
}

#[test]
fn fibers_that_change_threads() {
    let trial = small();
    let words = ["g++", "-O2", "-g", "-pthread", "-lboost_context"];
    let target = compiled(&trial, &words, "fibers.cpp");
    // Often, not many: what is looked at grows with the frames that wait.
    for _ in 0..if is_long() { 10 } else { 1 } {
        trial.same(&MODES, &[&target, "100"]);
        trial.same(&MODES, &[&target, "100", "1"]);
    }
}

#[test]
fn rust_panics_and_backtraces() {
    let trial = small();
    let target = compiled(&trial, &["rustc", "-O", "-g", "--edition=2024"], "panic.rs");
    trial.same(&MODES, &[&target, &rounds(60)]);
}

#[test]
fn signals() {
    let trial = small();
    let target = compiled(&trial, &["gcc", "-O2", "-g", "-pthread"], "storm.c");
    trial.same(&MODES, &[&target, &rounds(100)]);
}

#[test]
fn processes_and_threads() {
    let trial = small();
    let target = compiled(&trial, &["gcc", "-O2", "-g", "-pthread"], "spawn.c");
    trial.same(&MODES, &[&target, &rounds(12)]);
}
