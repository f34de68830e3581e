//! System call tracing under the kernel and under bpftime: the same program
//! must make the same calls, by number, with the same arguments and results.

use std::fs;

use bpftime_tests::{Program, World};

/// What `calltrace` has counted while `calls` told a story.
fn counted(world: &World, story: &str) -> Vec<String> {
    let name = format!("calls-{story}");
    let calls = world.home().join(&name);
    fs::copy(world.fixture("calls"), &calls).expect("a copy of its own");
    let tool = world.fixture("calltrace").into_os_string();
    let mut tool = Program::on_pipes(world.tool(&[tool, name.into()]));
    assert_eq!(tool.line(), "ready");
    let library = world.fixture("libplug.so").into_os_string();
    let calls = world.start(&[calls.into_os_string(), story.into(), library]);
    let exit = calls.finish();
    assert_eq!(
        (exit.code, exit.stdout.trim()),
        (0, "start\ndone"),
        "{story}"
    );
    tool.tell("print");
    let mut lines = tool.lines_until(|line| line == "end");
    lines.pop();
    let home = world.home().display().to_string();
    let lines = lines
        .into_iter()
        .map(|line| line.replace(&home, "HOME"))
        .collect();
    tool.tell("quit");
    assert_eq!(tool.finish().code, 0);
    lines
}

/// Tells a story in both worlds. `may_differ` picks counts by kind and number
/// that are no matter of how calls are traced.
fn same(story: &str, may_differ: impl Fn(&str) -> bool) -> Vec<String> {
    let kept = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| !may_differ(line)).collect()
    };
    let ours = kept(counted(&World::new(), story));
    if let Some(kernel) = World::kernel() {
        let theirs = kept(counted(&kernel, story));
        let only = |these: &[String], those: &[String]| -> Vec<String> {
            these
                .iter()
                .filter(|line| !those.contains(line))
                .cloned()
                .collect()
        };
        let (added, missing) = (only(&ours, &theirs), only(&theirs, &ours));
        assert!(
            added.is_empty() && missing.is_empty(),
            "bpftime {added:#?}\nkernel {missing:#?}"
        );
    }
    ours
}

/// Whether a line is about this number.
fn is_of(line: &str, numbers: &[i64]) -> bool {
    let number = line
        .split(' ')
        .nth(1)
        .and_then(|number| number.parse().ok());
    number.is_some_and(|number| numbers.contains(&number))
}

#[test]
fn calls_of_every_form() {
    let said = same("plain", |_| false);
    for line in [
        "enter 110 20",
        "exit 140 60",
        "raw-enter 140 60",
        "enter 228 7",
        "open /etc/hostname 10",
        "open /nonexistent/file 10",
    ] {
        assert!(said.iter().any(|said| said == line), "{line}: {said:#?}");
    }
}

#[test]
fn children_of_every_kind() {
    same("children", |_| false);
}

#[test]
fn signals_and_their_returns() {
    same("signals", |_| false);
}

#[test]
fn eight_threads() {
    // Whether a join waits is chance.
    same("threads", |line| is_of(line, &[libc::SYS_futex]));
}

#[test]
fn text_that_comes_later() {
    same("late", |_| false);
}
