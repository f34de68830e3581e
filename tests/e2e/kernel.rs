//! Programs that only the kernel can host: with privilege they run there and
//! meet their companions in user space in one map, without it the tool is told
//! what is missing. The same tool without bpftime says what the sums are.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bpftime_tests::{Program, World};

/// The tool, its target, and the command whose executions the kernel counts.
struct Scene {
    command: PathBuf,
    tool: Program,
    puppet: Program,
}

impl Scene {
    fn new(world: &World, name: &str, options: &[&str]) -> Scene {
        let command = world.home().join(name);
        fs::copy("/bin/true", &command).expect("a command of its own");
        let mut options = options.to_vec();
        options.push(name);
        let path = world.fixture("puppet");
        let tool = world.fixture_tool("shared", &options, &path, "puppet_step");
        let puppet = world.puppet();
        Scene {
            command,
            tool,
            puppet,
        }
    }

    fn call(&mut self, times: u32) {
        assert_eq!(self.puppet.ask(&format!("call {times}")), "ok");
    }

    /// Executes the command; its process ids.
    fn exec(&self, times: u32) -> Vec<u32> {
        let run = |_| {
            let mut child = Command::new(&self.command).spawn().expect("the command");
            let pid = child.id();
            assert!(child.wait().expect("the command").success());
            pid
        };
        (0..times).map(run).collect()
    }

    /// Attaches the kernel's program.
    fn attach_exec(&mut self) {
        assert_eq!(self.tool.ask("exec"), "attached");
    }

    fn printed(&mut self) -> Vec<String> {
        self.tool.tell("print");
        let mut lines = self.tool.lines_until(|line| line == ".");
        lines.pop();
        lines
    }

    fn end(mut self) {
        self.tool.tell("quit");
        assert_eq!(self.tool.finish().code, 0);
        self.puppet.tell("quit");
        assert_eq!(self.puppet.finish().code, 0);
        fs::remove_file(&self.command).expect("the command");
    }
}

/// Both privileged ways to run the tool.
fn worlds() -> Option<[World; 2]> {
    Some([World::privileged()?, World::kernel()?])
}

#[test]
fn both_sides_count_in_one_memory() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let mut scene = Scene::new(&world, "kmglobals", &[]);
        scene.call(5);
        scene.exec(2);
        scene.attach_exec();
        let first = scene.exec(3);
        scene.call(7);
        let last = scene.exec(2);
        assert_eq!(first.len() + last.len(), 5);
        let seen = format!("call saw {}", first[2]);
        let sums = [
            "calls 12",
            "execs 5",
            "all 17",
            &seen,
            "exec saw 6",
            "plain 0 12",
            "plain 1 5",
        ];
        assert_eq!(scene.printed(), sums, "{:?}", world.mode());
        scene.call(1);
        let seen = format!("call saw {}", last[1]);
        assert_eq!(scene.printed()[3], seen, "{:?}", world.mode());
        scene.end();
    }
}

/// What the ordinary user's tool is told.
#[test]
fn who_may_not_load_programs_is_told_what_is_missing() {
    let world = World::new();
    let mut scene = Scene::new(&world, "kmrefused", &[]);
    scene.call(3);
    scene.tool.tell("exec");
    let exit = scene.tool.finish();
    assert_eq!(exit.code, 1);
    assert!(
        exit.stderr.contains(
            "bpftime: program \"exec_globals\": only the kernel hosts raw tracepoint \
             sched_process_exec, which takes CAP_BPF and CAP_PERFMON, as root has\n"
        ),
        "{}",
        exit.stderr
    );
    scene.puppet.tell("quit");
    assert_eq!(scene.puppet.finish().code, 0);
}
