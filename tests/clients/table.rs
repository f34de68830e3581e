//! What a row of the table is, and how it is told in both worlds. It knows no
//! tool.

use std::cell::Cell;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use bpftime_tests::{Mode, Program, World};

/// A tool's command line and what it shows of a workload. In both command
/// lines `{home}` is the directory of the world's own copies of fixtures.
pub struct Row<'a> {
    /// The tool and its arguments.
    pub tool: &'a [&'a str],
    /// Fixtures that the command lines name.
    pub fixtures: &'a [&'a str],
    /// The workload, started when the tool has shown its first line; empty for
    /// none.
    pub work: &'a [&'a str],
    /// The tool is interrupted when it has shown so many lines that
    /// `Row::row` picks; 0: when the workload has ended.
    pub lines: usize,
    /// What is compared of a line, if it is.
    pub row: fn(&str) -> Option<String>,
    /// The rows, sorted.
    pub rows: &'a [&'a str],
}

impl Row<'_> {
    /// Tells the row in both worlds.
    ///
    /// # Panics
    /// If one of them shows other rows.
    pub fn check(&self) {
        both(|world| self.check_in(world));
    }

    /// Tells it under bpftime only: for kprobes, which this kernel may not have.
    ///
    /// # Panics
    /// If it shows other rows.
    pub fn check_ours(&self) {
        self.check_in(&World::new());
    }

    /// Tells it in this world.
    ///
    /// # Panics
    /// If it shows other rows.
    pub fn check_in(&self, world: &World) {
        for name in self.fixtures {
            world.fixture(name);
        }
        let shown = self.shown(world);
        let mut rows: Vec<String> = shown.lines().filter_map(self.row).collect();
        rows.sort();
        let mode = world.mode();
        assert_eq!(rows, self.rows, "{:?} under {mode:?}:\n{shown}", self.tool);
    }

    fn shown(&self, world: &World) -> String {
        let tool = expand(world, self.tool);
        let mut tool = Program::on_terminal(tool_command(world, &tool));
        let first = tool.line();
        let seen = Cell::new(usize::from((self.row)(&first).is_some()));
        if !self.work.is_empty() {
            // Many open their buffers after they have shown the names of columns.
            if self.lines > 0 {
                tool.wait_idle();
            }
            let work = world.start(&expand(world, self.work)).finish();
            assert_eq!(work.code, 0, "{:?}: {work:?}", self.work);
        }
        if self.lines > seen.get() {
            tool.lines_until(|line| {
                seen.set(seen.get() + usize::from((self.row)(line).is_some()));
                seen.get() == self.lines
            });
        }
        // bcc's `trace` does not hear an interrupt while it prints.
        let exit = match self.lines {
            0 => tool.interrupt(),
            _ => tool.kill(),
        };
        exit.stdout
    }
}

/// Tells a story under bpftime, and under the kernel where that can be had.
pub fn both(story: impl Fn(&World)) {
    story(&World::new());
    if let Some(kernel) = World::kernel() {
        story(&kernel);
    }
}

/// While it is held, no other test reads the kernel's trace_pipe, of which
/// there is one.
pub fn trace_pipe_turn(world: &World) -> Option<File> {
    (world.mode() == Mode::Kernel).then(|| {
        let path = std::env::temp_dir().join("bpftime-tests-trace-pipe");
        let file = File::create(path).expect("a file to lock");
        file.lock().expect("a lock");
        file
    })
}

/// Words of a command line with `{home}` in them.
pub fn expand(world: &World, words: &[&str]) -> Vec<String> {
    let home = world.home().display().to_string();
    let expand = |word: &&str| word.replace("{home}", &home);
    words.iter().map(expand).collect()
}

/// A tool's command; in the kernel's world with the headers that bpftime has,
/// for there may be no others.
pub fn tool_command(world: &World, words: &[String]) -> Command {
    let mut command = world.tool(words);
    if world.mode() == Mode::Kernel {
        command.env("BCC_KERNEL_SOURCE", headers());
    }
    command
}

/// A tree of the headers that tools find under bpftime.
fn headers() -> &'static PathBuf {
    static HEADERS: OnceLock<(World, PathBuf)> = OnceLock::new();
    let (_, tree) = HEADERS.get_or_init(|| {
        let world = World::new();
        let script = "cd /lib/modules/$(uname -r)/build && pwd -P";
        let found = world.run(&["load", "sh", "-c", script]);
        assert_eq!((found.code, found.stderr.as_str()), (0, ""));
        let tree = PathBuf::from(found.stdout.trim());
        assert!(tree.starts_with(world.home()), "{}", tree.display());
        (world, tree)
    });
    tree
}

/// The words of a line behind the first `columns`.
pub fn behind(line: &str, columns: usize) -> String {
    let words: Vec<&str> = line.split_whitespace().skip(columns).collect();
    words.join(" ")
}

/// Runs a tool in both worlds on a process that waits until the tool has shown
/// a line that has `ready` in it, if that is not empty, and waits for events. Has
/// what the tool shows looked at once the process has printed what it has done
/// and waits for another line.
/// `{pid}` in the tool's words is the process, which prints `pid PID` first.
pub fn on_process(target: &[&str], tool: &[&str], ready: &str, look: impl Fn(&World, Program)) {
    both(|world| {
        if let Some(fixture) = target[0].strip_prefix("{home}/") {
            world.fixture(fixture);
        }
        let mut target = world.start(&expand(world, target));
        let pid = target.line().replace("pid ", "");
        let words = expand(world, tool);
        let words: Vec<String> = words
            .iter()
            .map(|word| word.replace("{pid}", &pid))
            .collect();
        let mut tool = Program::on_terminal(tool_command(world, &words));
        if !ready.is_empty() {
            tool.lines_until(|line| line.contains(ready));
        }
        tool.wait_idle_or_asleep();
        target.tell("go");
        target.line();
        target.wait_reading();
        look(world, tool);
    });
}

/// The same on `rounds`, which does so many.
pub fn on_rounds(rounds: &str, tool: &[&str], ready: &str, look: impl Fn(&World, Program)) {
    on_process(&["{home}/rounds", rounds, "0", "wait"], tool, ready, look);
}
