//! `bpftime run --pid` with an object, a package and a module: it ends when the
//! process has ended, and tells all that was reported.

use bpftime_tests::{Program, World, wait};

use crate::objects::{run, text};
use crate::oracle::same;
use crate::packages::{exported, parcel};

/// A `tgt` of its own user that waits for a word, and its id.
fn target(world: &World) -> (Program, String) {
    let tgt = world.fixture("tgt");
    let mut target = Program::on_pipes(world.plain(&[text(&tgt), "3", "0", "wait"]));
    let pid = target.line();
    let pid = pid.strip_prefix("pid ").expect("a process id").to_owned();
    (target, pid)
}

/// What is said of the three calls of a process and its end, by the tool that
/// these words run; it says `ready` on stderr or stdout when it is.
fn told(world: &World, words: &[&str], ready: &str) -> String {
    let (mut target, pid) = target(world);
    let mut all = vec!["--pid", &pid];
    all.extend(words);
    let mut command = run(world, &all);
    command.current_dir(world.home());
    let mut tool = Program::on_pipes(command);
    match ready {
        "attached" => tool.wait_stderr("bpftime: attached; Ctrl-C ends\n"),
        line => assert_eq!(tool.line(), line),
    }
    target.tell("go");
    assert_eq!(target.finish().code, 0);
    wait::until_true("the tool's end", wait::LONG, || !tool.runs());
    let exit = tool.finish();
    assert_eq!(exit.code, 0, "{exit:?}");
    let said = exit.stderr.replace(&pid, "PID");
    let attached = "bpftime: attached; Ctrl-C ends\n";
    assert_eq!(
        said.strip_prefix(attached).unwrap_or(&said),
        "bpftime: process PID has ended\n"
    );
    exit.stdout
}

fn attach(world: &World, program: &str) -> String {
    format!("{program}={}:tgt_add", world.fixture("tgt").display())
}

#[test]
fn an_object_ends_with_its_process() {
    let said = same(|world| {
        let object = world.fixture("reports.bpf.o");
        let place = attach(world, "on_call");
        let words = ["--attach", &place, text(&object), "--quiet"];
        let said = told(world, &words, "attached");
        // Elements of hashes have no order.
        let seen = said.lines().find(|line| line.starts_with("seen"));
        seen.expect("a count").to_owned()
    });
    assert_eq!(said, "seen: 3");
}

#[test]
fn a_package_ends_with_its_process() {
    let said = same(|world| {
        let maps = serde_json::json!([{"name": "events", "ident": "events"}]);
        let package = parcel(&["on_call"], &maps, &exported("event"));
        let file = world.home().join("package.json");
        std::fs::write(&file, package.to_string()).expect("a file");
        let place = attach(world, "on_call");
        told(
            world,
            &["--json", "--attach", &place, text(&file)],
            "attached",
        )
    });
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn a_module_ends_with_its_process() {
    let said = same(|world| {
        let module = world.fixture("steps.wasm");
        let place = format!("{}:tgt_add", world.fixture("tgt").display());
        let words = [text(&module), "calls", &place];
        told(world, &words, "ready calls")
    });
    assert_eq!(said, "ready calls\n");
}

#[test]
fn a_process_that_is_not_there() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let (target, pid) = target(&world);
    assert_eq!(target.kill().code, 137);
    for runtime in ["user", "kernel"] {
        let exit = world.run(&["run", "--runtime", runtime, "--pid", &pid, text(&object)]);
        let said =
            format!("bpftime: {pid}: no such process: check the process id (pidof NAME, ps)\n");
        assert_eq!((exit.code, exit.stderr), (1, said));
    }
}

/// Whoever starts us may ignore how children end; the kernel then forgets them.
#[test]
fn an_application_is_waited_for_by_whom_its_end_is_ignored() {
    let world = World::new();
    let (binary, object) = (world.binary(), world.fixture("reports.bpf.o"));
    let script = "import os, signal, sys\n\
                  signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    let asks = "import signal, sys\n\
                sys.exit(7 if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN else 1)";
    let words = [
        "python3",
        "-c",
        script,
        text(&binary),
        "run",
        "--attach",
        "on_call=off",
        text(&object),
        "--",
        "python3",
        "-c",
        asks,
    ];
    let exit = Program::on_pipes(world.plain(&words)).finish();
    assert_eq!(exit.code, 7, "{exit:?}");
}
