//! `bpftime run` with an object file: what its programs report, in user space
//! as an ordinary user and in the kernel as root.

mod ends;
mod explained;
mod inputs;
mod kernels;
mod kinds;
mod places;
mod rights;
mod types;

use std::path::Path;
use std::process::Command;

use bpftime_tests::{Exit, Mode, Program, World};
use nix::sys::signal::Signal;

use crate::oracle::same;

/// `bpftime run` in this world, with programs where the world has them.
pub fn run(world: &World, words: &[&str]) -> Command {
    let mut all = vec!["run"];
    if world.mode() == Mode::Bpftime {
        all.extend(words);
        return world.bpftime(&all);
    }
    all.extend(["--runtime", "kernel"]);
    all.extend(words);
    let mut command = world.tool(&[world.binary()]);
    command.args(all);
    command
}

/// `reports` on the calls of a copy of `tgt`, and with it.
fn reports(world: &World, options: &[&str], settings: &[&str], rounds: &str) -> Exit {
    let object = world.fixture("reports.bpf.o");
    let target = world.fixture("tgt");
    let attach = format!("on_call={}:tgt_add", target.display());
    let mut words = options.to_vec();
    words.extend(["--attach", &attach, text(&object)]);
    words.extend(settings);
    words.extend(["--", text(&target), rounds, "0"]);
    Program::on_pipes(run(world, &words)).finish()
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path of ours")
}

/// What stands behind the first column, without lines of the target.
fn without_time(exit: &Exit) -> String {
    let lines = exit.stdout.lines().filter(|line| !line.ends_with(" right"));
    let lines = lines.map(|line| match line.as_bytes() {
        [_, _, b':', _, _, b':', ..] => &line[8..],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn records_of_every_type_as_json() {
    let said = same(|world| {
        let settings = ["--prefix", "xy", "--limits", "1,2,513", "--least=1"];
        let exit = reports(world, &["--json"], &settings, "3");
        assert_eq!(
            (exit.code, exit.stderr.as_str()),
            (0, "bpftime: attached; Ctrl-C ends\n")
        );
        // The same structure comes through both buffers, in no order between them.
        let mut lines: Vec<String> = without_time(&exit).lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    });
    let record = |first: u64, large: bool, kind: &str| {
        let third = 2 * first;
        let letter = 97 + first;
        format!(
            r#"{{"bytes":[1,-1],"first":{first},"high":{third},"inner":{{"parts":[0,513,0],"tag":"xy"}},"kind":"{kind}","large":{large},"letter":{letter},"low":{first},"nothing":0,"text":"round-{first}","third":-{third},"word":65281}}"#
        )
    };
    let (one, two) = (
        record(1, false, "KIND_ODD(1)"),
        record(2, true, "KIND_EVEN(0)"),
    );
    let expected = [
        one.as_str(),
        &one,
        &two,
        &two,
        r#"{"key":"KIND_EVEN(0)","map":"hists","value":{"slots":[0,0,1,0,0,0,0,0]}}"#,
        r#"{"key":"KIND_ODD(1)","map":"hists","value":{"slots":[0,1,0,0,0,0,0,0]}}"#,
        r#"{"key":0,"map":"sums","value":18446744073709551610}"#,
        r#"{"key":{"parts":[0,513,0],"tag":"xy"},"map":"counts","value":2}"#,
        r#"{"value":1,"variable":"left_out"}"#,
        r#"{"value":3,"variable":"seen"}"#,
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_table_and_histograms() {
    let said = same(|world| {
        let exit = reports(world, &[], &["--only", "KIND_ODD", "--prefix=\u{1b}["], "2");
        assert_eq!(exit.code, 0, "{exit:?}");
        without_time(&exit)
    });
    let line = "  1     KIND_ODD(1) true 98  1      2      {\"parts\":[0,0,0],\"tag\":\"\\u001b[\"} \
                -2 65281 [1,-1] 0 round-1";
    let expected = format!(
        "TIME     FIRST  KIND   LARGE  LETTER LOW    HIGH   INNER  THIRD  WORD   BYTES  NOTHING TEXT   
{line}
{line}
counts[{{\"parts\":[0,0,0],\"tag\":\"\\u001b[\"}}]: 1
sums[0]: 18446744073709551614
hists[KIND_ODD(1)]: {{\"slots\":[0,1,0,0,0,0,0,0]}}
     value               : count    distribution
         0 -> 1          : 0        |                                        |
         2 -> 3          : 1        |****************************************|
seen: 2
left_out: 1"
    );
    assert_eq!(said, expected);
}

#[test]
fn interrupted_while_a_process_is_traced() {
    let said = same(|world| {
        let object = world.fixture("reports.bpf.o");
        let path = world.fixture("puppet");
        let mut puppet = world.bare_puppet();
        let mut other = world.bare_puppet();
        let attach = format!("on_call={}:puppet_step", path.display());
        let pid = puppet.pid().to_string();
        let words = ["--pid", &pid, "--attach", &attach, text(&object), "--quiet"];
        let tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        assert_eq!(puppet.ask("call 1000"), "ok");
        assert_eq!(other.ask("call 10"), "ok");
        let exit = tool.interrupt();
        assert_eq!(exit.code, 0, "{exit:?}");
        assert_eq!(puppet.ask("call 5"), "ok");
        assert_eq!((puppet.finish().code, other.finish().code), (0, 0));
        let seen = exit.stdout.lines().find(|line| line.starts_with("seen"));
        seen.expect("a count").to_owned()
    });
    assert_eq!(said, "seen: 1000");
}

#[test]
fn ends_as_the_application_does() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let object = text(&object);
    let status = |script: &str| {
        let words = [
            "run",
            "--attach",
            "on_call=off",
            object,
            "--",
            "sh",
            "-c",
            script,
        ];
        world.run(&words).code
    };
    assert_eq!(status("exit 0"), 0);
    assert_eq!(status("exit 7"), 7);
    assert_eq!(status("kill -KILL $$"), 128 + Signal::SIGKILL as i32);
    let missing = world.run(&["run", "--attach", "on_call=off", object, "--", "/no/such"]);
    assert_eq!(
        (missing.code, missing.stderr.as_str()),
        (
            127,
            "bpftime: /no/such: cannot be started (No such file or directory): check the path\n"
        )
    );
}
