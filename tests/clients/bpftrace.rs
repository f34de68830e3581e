//! bpftrace 0.17 as Debian has it: how its programs are run and what of their
//! output is compared.

mod actions;
mod maps;
mod probes;
mod scripts;
mod values;

use bpftime_tests::{Exit, Program, World};

use crate::table::{both, expand, tool_command};

/// What a program shows of a workload: the tool's words and the workload's,
/// with `{home}` in both. The tool is interrupted when the workload has ended.
fn traced(world: &World, words: &[&str], work: &[&str]) -> Exit {
    let words = [&["bpftrace"], words].concat();
    let mut tool = Program::on_terminal(tool_command(world, &expand(world, &words)));
    tool.lines_until(|line| line.starts_with("Attaching"));
    tool.wait_idle();
    let exit = world.start(&expand(world, work)).finish();
    assert_eq!(exit.code, 0, "{work:?}: {exit:?}");
    tool.wait_idle();
    tool.interrupt()
}

/// What a command line shows that ends by itself.
fn told(world: &World, words: &[&str]) -> Exit {
    let words = [&["bpftrace"], words].concat();
    Program::on_pipes(tool_command(world, &expand(world, &words))).finish()
}

/// The lines of `text` that say something, with `~` for `{home}`.
fn lines(world: &World, text: &str) -> Vec<String> {
    let home = world.home().display().to_string();
    let lines = text.lines().map(|line| line.replace(&home, "~"));
    lines.filter(|line| !line.trim().is_empty()).collect()
}

/// Calls of `rounds`, a program on them and the lines that come of it, sorted:
/// maps with equal values come in any order.
fn check(script: &str, rounds: &str, expected: &[&str]) {
    both(|world| {
        world.fixture("rounds");
        let exit = traced(world, &["-e", script], &["{home}/rounds", rounds]);
        assert_eq!(exit.code, 0, "{script}: {exit:?}");
        let mut shown = lines(world, &exit.stdout);
        shown.retain(|line| !line.starts_with("Attaching"));
        shown.sort();
        assert_eq!(shown, expected, "{:?}: {script}", world.mode());
    });
}

/// A copy of `program` of this world's own under another name: the kernel
/// shows the calls of the whole system.
fn renamed(world: &World, program: &str, name: &str) {
    let copy = world.home().join(name);
    std::fs::copy(program, copy).expect("a program of our own");
}
