//! What modules have of the system: arguments, environment, streams, ends and
//! the directories that they are given, by a guest without programs.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;

use bpftime_tests::{Exit, Program, World, wait};
use nix::sys::signal::Signal;

use crate::objects::text;

/// The guest `files` with these options and arguments.
fn files(world: &World, options: &[&str], words: &[&OsStr]) -> Command {
    let mut all = vec![OsString::from("run")];
    all.extend(options.iter().map(OsString::from));
    all.push(world.fixture("files.wasm").into());
    all.extend(words.iter().map(OsString::from));
    world.bpftime(&all)
}

/// What it says of these lines, one answer for each.
fn told(world: &World, options: &[&str], words: &[&OsStr], lines: &[&str]) -> Vec<String> {
    let mut guest = Program::on_pipes(files(world, options, words));
    let said = lines.iter().map(|line| guest.ask(line)).collect();
    let exit = guest.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    assert_eq!(exit.stdout.lines().last(), Some("eof"));
    said
}

/// How the guest ends whose streams a shell puts somewhere.
fn shell(world: &World, words: &str) -> Exit {
    Program::on_pipes(script(world, words)).finish()
}

fn script(world: &World, words: &str) -> Command {
    let (binary, module) = (world.binary(), world.fixture("files.wasm"));
    let mut command = world.plain(&["bash", "-c", words]);
    command.env("RUN", format!("{} run", text(&binary)));
    command.env("GUEST", module);
    command
}

#[test]
fn arguments_and_environment_are_those_that_were_given() {
    let world = World::new();
    let words: Vec<&OsStr> = [
        &b"a"[..],
        b"--pid",
        b"",
        b"two words",
        b"\xff\x01",
        b"\xc3\xbc",
    ]
    .into_iter()
    .map(OsStr::from_bytes)
    .collect();
    let said = told(&world, &[], &words, &["args", "env HOME", "env PATH"]);
    let expected = [
        "[a] [--pid] [] [two words] [\\ff\\01] [\\c3\\bc] end",
        "none",
        "none",
    ];
    assert_eq!(said, expected);
    let options = ["--env", "LC_ALL", "--env", "A=b=c d", "--env", "EMPTY="];
    let said = told(
        &world,
        &options,
        &[],
        &["env LC_ALL", "env A", "env EMPTY", "env B"],
    );
    assert_eq!(said, ["C", "b=c d", "", "none"]);
    let exit = world.run(&["run", "--env", "NO_SUCH", "x.wasm"]);
    let said = "error: invalid value 'NO_SUCH' for '--env <NAME[=VALUE]>': \
                environment variable not found; write NAME=VALUE\n";
    assert!(exit.code == 2 && exit.stderr.starts_with(said), "{exit:?}");
}

#[test]
fn stdin_is_read_as_it_comes() {
    let world = World::new();
    let mut guest = Program::on_pipes(files(&world, &[], &[]));
    // Two lines at once: the second one waits where the guest looks for it.
    guest.tell("wait\nfirst");
    assert_eq!(guest.line(), "<first>");
    guest.tell("wait");
    guest.wait_idle();
    guest.tell("second");
    assert_eq!(guest.line(), "<second>");
    guest.hang_up();
    let exit = guest.finish();
    assert_eq!((exit.code, exit.stdout.lines().last()), (0, Some("eof")));
    for (script, said) in [
        ("$RUN $GUEST < /dev/null", "eof\n"),
        ("$RUN $GUEST <&-", "eof\n"),
        (
            "printf 'wait\\nline\\nwait\\n' > $HOME/in; $RUN $GUEST < $HOME/in",
            "<line>\n<>\neof\n",
        ),
        ("$RUN $GUEST < /", "Is a directory\n"),
        (
            "printf 'args\\nexit 3' | $RUN $GUEST 2>&-; echo $?",
            "end\n3\n",
        ),
    ] {
        let exit = shell(&world, script);
        let all = (exit.code, exit.stdout.as_str(), exit.stderr.as_str());
        assert_eq!(all, (0, said, ""), "{script}");
    }
}

/// The status of a guest that gets a signal while its streams stay open.
fn ended(mut guest: Program, signal: Signal) -> i32 {
    guest.signal(signal);
    wait::until_true("its end", wait::LONG, || !guest.runs());
    guest.finish().code
}

#[test]
fn whoever_waits_for_a_stream_ends_at_once() {
    let world = World::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let guest = Program::on_pipes(files(&world, &[], &[]));
        guest.wait_idle();
        assert_eq!(ended(guest, signal), 128 + signal as i32);
        world.expect_nothing_left();
    }
    // A pipe that nobody reads.
    let mut guest = Program::on_pipes(script(
        &world,
        "mkfifo $HOME/pipe; exec 3<>$HOME/pipe; exec $RUN $GUEST >&3",
    ));
    guest.tell("fill");
    guest.wait_idle();
    assert_eq!(ended(guest, Signal::SIGTERM), 128 + Signal::SIGTERM as i32);
    world.expect_nothing_left();
}

#[test]
fn ends_are_those_of_other_tools() {
    let world = World::new();
    for (status, expected) in [
        (0, 0),
        (1, 1),
        (125, 125),
        (126, 126),
        (128, 128),
        (255, 255),
    ] {
        let script = format!("echo exit {status} | $RUN $GUEST; echo $?");
        assert_eq!(shell(&world, &script).stdout, format!("{expected}\n"));
    }
    for (script, stdout, stderr) in [
        // Nobody reads any more: as `yes | head`.
        (
            "echo fill | $RUN $GUEST | head -c 3; echo ${PIPESTATUS[1]}",
            "xxx141\n",
            "",
        ),
        // Who ignores that is told.
        (
            "trap '' PIPE; echo fill | { $RUN $GUEST; echo $? >&2; } | head -c 3",
            "xxx",
            "9\n",
        ),
        ("echo fill | $RUN $GUEST > /dev/full; echo $?", "9\n", ""),
        ("echo say 100000 | $RUN $GUEST | wc -c", "100004\n", ""),
        (
            "cd $HOME; echo trap | $RUN files.wasm; echo $?",
            "134\n",
            "bpftime: files.wasm: ended by a trap: wasm trap: wasm `unreachable` instruction \
             executed: it is the module's own fault; ask who made it\n",
        ),
    ] {
        let exit = shell(&world, script);
        assert_eq!(
            (exit.stdout.as_str(), exit.stderr.as_str()),
            (stdout, stderr),
            "{script}"
        );
    }
}

/// What is tried in a directory that is `/d` for the guest.
const TRIED: [&str; 20] = [
    "read /d/file",
    "read d/file",
    "read /d/sub/../file",
    "read /d/inner",
    "list /d",
    "read /d/../secret",
    "read /d/sub/../../secret",
    "list /d/..",
    "read /d/absolute",
    "read /d/relative",
    "read /etc/passwd",
    "write /d/absolute x",
    "write /d/../new x",
    "move /d/file /d/../file",
    "link ../../secret /d/sub/more",
    "link /etc/passwd /d/more",
    "write /d/new some text",
    "read /d/new",
    "move /d/new /d/sub/new",
    "remove /d/sub/new",
];

/// Answers for all but the last lines, whether files may be changed or not.
fn refused_or_read() -> Vec<&'static str> {
    let no = "Operation not permitted";
    let mut expected = vec!["inside", "inside", "inside", "inside"];
    expected.push("absolute file inner relative sub end");
    expected.extend([no, no, no, no, no, "Capabilities insufficient", no, no, no]);
    expected
}

#[test]
fn directories_are_those_that_were_given() {
    let world = World::new();
    let dir = world.home().join("dir");
    fs::create_dir_all(dir.join("sub")).expect("a directory");
    fs::write(dir.join("file"), "inside\n").expect("a file");
    fs::write(world.home().join("secret"), "outside\n").expect("a file");
    symlink("/etc/passwd", dir.join("absolute")).expect("a link");
    symlink("../secret", dir.join("relative")).expect("a link");
    symlink("file", dir.join("inner")).expect("a link");
    for path in [&dir, &dir.join("sub"), &dir.join("file")] {
        std::os::unix::fs::chown(path, Some(world.uid()), None).expect("the user's");
    }
    let given = format!("{}::/d", dir.display());
    let closed = format!("{given}::ro");
    let no = "Operation not permitted";
    let none = "No such file or directory";

    let said = told(&world, &["--dir", &closed], &[], &TRIED);
    let mut expected = refused_or_read();
    expected.extend([no, no, no, none, no, no]);
    assert_eq!(said, expected);

    let said = told(&world, &["--dir", &given], &[], &TRIED);
    let mut expected = refused_or_read();
    // A link to elsewhere inside the directory is a name like others; nothing is behind it.
    expected.extend(["ok", no, "ok", "some text", "ok", "ok"]);
    assert_eq!(said, expected);
    let said = told(&world, &["--dir", &given], &[], &["read /d/sub/more"]);
    assert_eq!(said, [no]);
    let kept = fs::read_to_string(world.home().join("secret")).expect("a file");
    assert_eq!(kept, "outside\n");

    let file = format!("{}/file::/d", dir.display());
    for (words, status, reason) in [
        (
            "/no/such",
            126,
            "bpftime: M: may use directory /no/such, which cannot be opened (No such file or directory): check --dir\n",
        ),
        (
            &file,
            126,
            "bpftime: M: may use directory D/file, which cannot be opened (Not a directory): check --dir\n",
        ),
        (
            "a::b::rw",
            2,
            "error: invalid value 'a::b::rw' for '--dir <HOST[::GUEST[::ro]]>': write HOST, HOST::GUEST or HOST::GUEST::ro\n\nFor more information, try '--help'.\n",
        ),
    ] {
        let exit = Program::on_pipes(files(&world, &["--dir", words], &[])).finish();
        let said = exit.stderr.replace(text(&world.fixture("files.wasm")), "M");
        let said = said.replace(text(&dir), "D");
        assert_eq!((exit.code, said.as_str()), (status, reason));
    }
}
