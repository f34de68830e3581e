//! Mistakes: each is one line that says what happened, a non-zero exit, an
//! unharmed target, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use bpftime_tests::{Exit, Program, World};

/// One line on stderr that has all of `words`, and a non-zero exit.
fn refused(exit: &Exit, words: &[&str]) {
    assert_ne!(exit.code, 0, "{exit:?}");
    assert_eq!(exit.stdout, "", "{exit:?}");
    assert_eq!(exit.stderr.lines().count(), 1, "{exit:?}");
    for word in words {
        assert!(
            exit.stderr.to_lowercase().contains(&word.to_lowercase()),
            "no `{word}` in {exit:?}"
        );
    }
}

/// Compiles a small program that waits for the end of its input.
fn compiled(world: &World, compiler: &[&str], name: &str) -> Option<String> {
    let source =
        "#include <unistd.h>\nint main(void) { char b; while (read(0, &b, 1) > 0) ; return 0; }\n";
    compiled_from(world, compiler, name, source)
}

/// Compiles a program into the world's home.
fn compiled_from(world: &World, compiler: &[&str], name: &str, text: &str) -> Option<String> {
    let source = world.home().join("source.c");
    fs::write(&source, text).expect("a source file");
    let path = world.home().join(name);
    let status = Command::new(compiler[0])
        .args(&compiler[1..])
        .arg("-o")
        .arg(&path)
        .arg(&source)
        .output();
    if !status.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("CI").is_none(),
            "{compiler:?} does not work; in CI nothing is left out"
        );
        return None;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    Some(path.into_os_string().into_string().expect("UTF-8"))
}

#[test]
fn no_such_program() {
    let world = World::new();
    for subcommand in ["start", "load"] {
        refused(
            &world.run(&[subcommand, "/no/such/program"]),
            &["/no/such/program", "no such file"],
        );
        refused(
            &world.run(&[subcommand, "no-such-program"]),
            &["no-such-program"],
        );
    }
}

#[test]
fn not_an_elf_file() {
    let world = World::new();
    let path = world.home().join("data");
    fs::write(&path, [0_u8, 1, 2, 3, 4, 5, 6, 7]).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file");
    let path = path.to_str().expect("UTF-8");
    for subcommand in ["start", "load"] {
        refused(&world.run(&[subcommand, path]), &[path]);
    }
}

#[test]
fn a_script_runs() {
    let world = World::new();
    let path = world.home().join("script");
    fs::write(&path, "#!/bin/sh\necho $(( 6 * 7 ))\n").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file");
    let exit = world.run(&["start", path.to_str().expect("UTF-8")]);
    assert_eq!(
        (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
        (0, "42\n", "")
    );
}

/// What `load` makes of a program that cannot be traced.
enum AsTool {
    /// It runs, with a supervisor beside it.
    Runs,
    Refused,
}

/// What `start`, `load` and `attach` say of a program that cannot be traced.
fn foreign(compiler: &[&str], name: &str, words: &[&str], as_tool: AsTool) {
    let world = World::new();
    let Some(path) = compiled(&world, compiler, name) else {
        return;
    };
    refused(&world.run(&["start", &path]), words);
    let loaded = world.run(&["load", &path]);
    match as_tool {
        AsTool::Refused => refused(&loaded, words),
        AsTool::Runs => assert_eq!(
            (loaded.code, loaded.stdout.as_str(), loaded.stderr.as_str()),
            (0, "", "")
        ),
    }
    let mut running = Program::on_pipes(world.plain(&[&path]));
    refused(&world.run(&["attach", &running.pid().to_string()]), words);
    assert!(running.runs());
    let exit = running.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
}

#[test]
fn static_programs() {
    foreign(&["gcc", "-static"], "static", &["static"], AsTool::Runs);
}

#[test]
fn programs_of_32_bits() {
    foreign(&["gcc", "-m32"], "narrow", &["32"], AsTool::Refused);
}

#[test]
fn musl_programs() {
    foreign(&["musl-gcc"], "musl", &["musl"], AsTool::Runs);
}

/// Has another's jump, which leads to nowhere, in a function that an attached
/// agent has to hook.
const PATCHES_LIBC: &str = r#"
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) {
    char b, *at = (char *)unshare;
    void *page = (void *)((uintptr_t)at & -4096);
    mprotect(page, 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
    memcpy(at, "\xe9\0\0\0\0", 5);
    mprotect(page, 8192, PROT_READ | PROT_EXEC);
    puts("patched"); fflush(stdout);
    while (read(0, &b, 1) > 0) ;
    return memcmp(at, "\xe9\0\0\0\0", 5);
}
"#;

#[test]
fn a_function_that_an_agent_needs_and_cannot_hook_is_in_the_status() {
    let world = World::new();
    let Some(path) = compiled_from(&world, &["gcc"], "patches", PATCHES_LIBC) else {
        return;
    };
    let mut running = Program::on_pipes(world.plain(&[&path]));
    assert_eq!(running.line(), "patched");
    let pid = running.pid().to_string();
    let attached = world.run(&["attach", &pid]);
    assert_eq!(attached.code, 0, "{attached:?}");
    let status = world.run(&["status"]);
    let why = "a call of libc is not followed";
    assert!(status.stdout.contains(why), "{status:?}");
    assert!(
        status.stdout.contains("someone else has patched it"),
        "{status:?}"
    );
    assert_eq!(world.run(&["detach", &pid]).code, 0);
    assert!(!world.run(&["status"]).stdout.contains(why));
    assert_eq!(running.finish().code, 0);
}

#[test]
fn no_such_process() {
    let world = World::new();
    refused(&world.run(&["attach", "4194000"]), &["4194000"]);
    refused(&world.run(&["detach", "4194000"]), &["4194000"]);
}

#[test]
fn a_process_of_another_user() {
    let world = World::new();
    if world.uid() == 0 {
        return;
    }
    refused(&world.run(&["attach", "1"]), &["1"]);
}

#[test]
fn a_symbol_that_does_not_exist_is_the_tools_own_message() {
    for world in [World::kernel(), Some(World::new())].into_iter().flatten() {
        let tgt = world.fixture("tgt");
        let exit = world
            .load(&[
                "funclatency",
                &format!("{}:no_such_function", tgt.display()),
            ])
            .finish();
        assert_ne!(exit.code, 0, "{exit:?}");
        assert!(exit.stderr.contains("no_such_function"), "{exit:?}");
    }
}

#[test]
fn a_session_directory_that_cannot_be_written() {
    let world = World::new();
    let tool = world.fixture("counter");
    let puppet = world.fixture("puppet");
    for dir in ["/proc/no/such/place", "/sys"] {
        let mut command = world.bpftime(&["load"]);
        command
            .arg(&tool)
            .arg(&puppet)
            .arg("puppet_step")
            .env("BPFTIME_SESSION_DIR", dir);
        let exit = Program::on_pipes(command).finish();
        assert_ne!(exit.code, 0, "{exit:?}");
        assert!(exit.stderr.contains(dir), "{exit:?}");
    }
}

#[test]
fn nothing_is_printed_into_a_targets_output() {
    let world = World::new();
    let mut counter = world.fixture_tool("counter", &[], &world.fixture("tgt"), "tgt_add");
    let path = world.fixture("tgt");
    let plain = Program::on_pipes(world.plain(&[path.as_os_str(), "10".as_ref()])).finish();
    let traced = world.start(&[path.as_os_str(), "10".as_ref()]).finish();
    assert_eq!(plain, traced);
    assert_eq!(counter.ask("total"), "10");
}
