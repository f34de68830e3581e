//! How it ends: by signals, by the application's end, by readers that go away.

use std::process::Stdio;

use bpftime_tests::{Program, World};
use nix::sys::signal::Signal;

use super::text;

/// Traces `puppet_step` of a puppet, and says what is called besides.
fn traced(world: &World, behind: &[&str]) -> (Program, Program) {
    let object = world.fixture("reports.bpf.o");
    let path = world.fixture("puppet");
    let puppet = world.bare_puppet();
    let attach = format!("on_call={}:puppet_step", path.display());
    let pid = puppet.pid().to_string();
    let mut words = vec![
        "run",
        "--pid",
        &pid,
        "--attach",
        &attach,
        text(&object),
        "--quiet",
    ];
    words.extend(behind);
    let tool = Program::on_pipes(world.bpftime(&words));
    tool.wait_stderr("attached");
    (tool, puppet)
}

#[test]
fn signals_that_ask_it_to_end() {
    let world = World::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let (tool, mut puppet) = traced(&world, &[]);
        assert_eq!(puppet.ask("call 5"), "ok");
        tool.signal(signal);
        // Who is impatient ends it no less.
        tool.signal(signal);
        let exit = tool.finish();
        assert_eq!(exit.code, 0, "{signal}: {exit:?}");
        assert!(exit.stdout.contains("seen: 5\n"), "{signal}: {exit:?}");
        assert_eq!(puppet.ask("call 5"), "ok");
        assert_eq!(puppet.finish().code, 0);
        world.expect_nothing_left();
    }
}

#[test]
fn killed_while_a_process_is_traced() {
    let world = World::new();
    let (tool, mut puppet) = traced(&world, &[]);
    assert_eq!(puppet.ask("call 5"), "ok");
    assert_eq!(tool.kill().code, 128 + Signal::SIGKILL as i32);
    assert_eq!(puppet.ask("call 5"), "ok");
    world.expect_nothing_left();
    assert_eq!(puppet.finish().code, 0);
}

#[test]
fn nobody_reads_stdout() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let path = world.fixture("tgt");
    let attach = format!("on_call={}:tgt_add", path.display());
    let script = "\"$@\" 2>\"$HOME/said\" | head -1; cat \"$HOME/said\"";
    let binary = world.binary();
    let words = [
        "bash",
        "-c",
        script,
        "bash",
        text(&binary),
        "run",
        "--attach",
        &attach,
        text(&object),
        "--",
        text(&path),
        "100",
        "0",
    ];
    let exit = Program::on_pipes(world.plain(&words)).finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{exit:?}");
    let lines: Vec<&str> = exit.stdout.lines().collect();
    assert!(
        lines[0].starts_with("TIME ") || lines[0].starts_with("sum "),
        "{exit:?}"
    );
    assert_eq!(lines[1..], ["bpftime: attached; Ctrl-C ends"]);
}

#[test]
fn nobody_reads_stderr() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let path = world.fixture("tgt");
    let attach = format!("on_call={}:tgt_add", path.display());
    let words = [
        "run",
        "--attach",
        &attach,
        text(&object),
        "--quiet",
        "--",
        text(&path),
        "3",
        "0",
    ];
    let mut command = world.bpftime(&words);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    command.stdin(Stdio::null()).stderr(writer);
    let output = command.output().expect("bpftime");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("seen: 3\n"),
        "{output:?}"
    );
}

#[test]
fn applications_that_cannot_be_started() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    for (app, code, reason) in [
        ("/no/such", 127, "No such file or directory"),
        ("no-such-command", 127, "No such file or directory"),
        ("/etc/passwd", 126, "Permission denied"),
        ("/", 126, "Permission denied"),
    ] {
        let exit = world.run(&["run", "--attach", "on_call=off", text(&object), "--", app]);
        let line = format!("bpftime: {app}: cannot be started ({reason}): check the path\n");
        assert_eq!(
            (exit.code, exit.stdout.as_str(), exit.stderr),
            (code, "", line)
        );
    }
    world.expect_nothing_left();
}

#[test]
fn applications_that_go_on_elsewhere() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let path = world.fixture("tgt");
    let attach = format!("on_call={}:tgt_add", path.display());
    // Its child outlives it, and reads what nobody writes any more.
    let script = "\"$1\" 4 0; (read line < \"$2\"; \"$1\" 6 0) & exit 3";
    let fifo = world.home().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).expect("a fifo");
    let words = [
        "run",
        "--attach",
        &attach,
        text(&object),
        "--quiet",
        "--",
        "bash",
        "-c",
        script,
        "bash",
        text(&path),
        text(&fifo),
    ];
    let mut command = world.bpftime(&words);
    let out = world.home().join("out");
    command
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out).expect("a file"))
        .stderr(Stdio::null());
    let status = command.status().expect("bpftime");
    assert_eq!(status.code(), Some(3));
    let said = std::fs::read_to_string(&out).expect("its output");
    assert!(said.contains("seen: 4\n"), "{said}");
    world.expect_nothing_left();
    std::fs::write(&fifo, "go on\n").expect("a fifo");
    let what = "the end of what goes on";
    bpftime_tests::wait::until_true(what, bpftime_tests::wait::LONG, || {
        let said = std::fs::read_to_string(&out).expect("its output");
        said.matches(" right\n").count() == 2
    });
}

#[test]
fn an_application_that_is_killed_by_a_signal() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let path = world.fixture("tgt");
    let attach = format!("on_call={}:tgt_add", path.display());
    let words = [
        "run",
        "--attach",
        &attach,
        text(&object),
        "--quiet",
        "--",
        text(&path),
        "4",
        "0",
        "wait",
    ];
    let mut tool = Program::on_pipes(world.bpftime(&words));
    tool.wait_stderr("attached");
    let line = tool.line();
    let app: i32 = line
        .strip_prefix("pid ")
        .and_then(|pid| pid.parse().ok())
        .expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(app), Signal::SIGTERM).expect("a process");
    let exit = tool.finish();
    assert_eq!(exit.code, 128 + Signal::SIGTERM as i32, "{exit:?}");
}

/// An application that says what it gets: with `trap`, and goes on or ends.
fn with_trap(world: &World, trap: &str) -> (Program, i32) {
    let object = world.fixture("reports.bpf.o");
    let script = format!("{trap}; echo pid $$; while read line; do :; done; exit 9");
    let words = [
        "run",
        "--attach",
        "on_call=off",
        text(&object),
        "--quiet",
        "--",
        "bash",
        "-c",
        &script,
    ];
    let mut tool = Program::on_pipes(world.bpftime(&words));
    tool.wait_stderr("attached");
    let line = tool.line();
    let app = line.strip_prefix("pid ").and_then(|pid| pid.parse().ok());
    (tool, app.expect("a pid"))
}

/// Waits for the command's end while its application may read on.
fn wait_for_end(tool: &mut Program) {
    let what = "the end of the command";
    bpftime_tests::wait::until_true(what, bpftime_tests::wait::LONG, || !tool.runs());
}

#[test]
fn what_is_asked_of_it_is_asked_of_the_application() {
    let world = World::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let name = signal.as_str().trim_start_matches("SIG");
        let (mut tool, _) = with_trap(&world, &format!("trap 'echo got {name}; exit 5' {name}"));
        tool.signal(signal);
        wait_for_end(&mut tool);
        let exit = tool.finish();
        assert_eq!(exit.code, 5, "{exit:?}");
        assert!(exit.stdout.ends_with(&format!("got {name}\n")), "{exit:?}");
    }
    world.expect_nothing_left();
}

#[test]
fn an_application_that_does_not_hear_is_left_alone() {
    let world = World::new();
    let (mut tool, app) = with_trap(&world, "trap 'echo no' INT");
    tool.signal(Signal::SIGINT);
    assert_eq!(tool.line(), "no");
    tool.signal(Signal::SIGINT);
    let app = nix::unistd::Pid::from_raw(app);
    wait_for_end(&mut tool);
    nix::sys::signal::kill(app, None).expect("it goes on");
    assert_eq!(tool.finish().code, 130);
    world.expect_nothing_left();
}
