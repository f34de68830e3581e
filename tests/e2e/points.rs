//! Every way to attach to a place in user space, by the `points` tool: which
//! programs run, in which order and in which process, as under the kernel.

use bpftime_tests::{Program, World};

use crate::oracle::same;

/// A `points` tool and the puppets that it traces.
struct Scene {
    tool: Program,
    puppets: Vec<Program>,
}

impl Scene {
    fn new(world: &World, puppets: usize) -> Scene {
        let words = [world.fixture("points"), world.fixture("puppet")];
        let mut tool = Program::on_pipes(world.tool(&words));
        assert_eq!(tool.line(), "ready");
        let puppets = (0..puppets).map(|_| world.puppet()).collect();
        Scene { tool, puppets }
    }

    /// Tells the tool; all must go well.
    fn tell(&mut self, line: &str) {
        assert_eq!(self.tool.ask(line), "ok", "{line}");
    }

    /// Has a puppet do something.
    fn play(&mut self, puppet: usize, line: &str) {
        assert_eq!(self.puppets[puppet].ask(line), "ok", "{line}");
    }

    /// What ran since the last time, with puppets in place of process ids.
    fn log(&mut self) -> String {
        let mut log = self.tool.ask("log") + " ";
        for (name, puppet) in ["a", "b", "c"].iter().zip(&self.puppets) {
            log = log.replace(&format!("@{} ", puppet.pid()), &format!("@{name} "));
        }
        let other = |word: &str| match word.split_once('@') {
            Some((run, who)) if who.len() > 1 => format!("{run}@child"),
            _ => word.to_owned(),
        };
        log.split_whitespace()
            .map(other)
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn end(mut self) {
        self.tool.tell("quit");
        assert_eq!(self.tool.finish().code, 0);
        for mut puppet in self.puppets {
            puppet.tell("quit");
            assert_eq!(puppet.finish().code, 0);
        }
    }
}

#[test]
fn the_newest_program_runs_first() {
    let said = same(|world| {
        let mut scene = Scene::new(world, 1);
        for line in [
            "perf entry puppet_step 1 -1 0",
            "perf back puppet_step 2 -1 0",
            "multi entry puppet_step 3 -1 0",
            "multi session puppet_step 4 -1 0",
            "multi back puppet_step 5 -1 0",
            "perf entry puppet_step 6 -1 0",
            "multi session puppet_step 7 -1 0",
            "perf back puppet_step 8 -1 0",
        ] {
            scene.tell(line);
        }
        scene.play(0, "call 2");
        let all = scene.log();
        for gone in ["close 1", "close 3", "close 5"] {
            scene.tell(gone);
        }
        scene.play(0, "call 1");
        let some = scene.log();
        // A target that starts later meets all links at once.
        scene.puppets.push(world.puppet());
        scene.play(1, "call 1");
        let late = scene.log();
        scene.end();
        format!("{all}\n{some}\n{late}")
    });
    let first = "7:entry(0)@a 6:entry(0)@a 4:entry(0)@a 3:entry(0)@a 1:entry(0)@a \
                 8:return(1)@a 7:return(1)kept=1000@a 5:return(1)@a 4:return(1)kept=1000@a 2:return(1)@a";
    assert!(said.starts_with(first), "{said}");
}

#[test]
fn sessions_keep_their_cookies_through_recursion() {
    let said = same(|world| {
        let mut scene = Scene::new(world, 1);
        scene.tell("multi session puppet_recurse 1 -1 0");
        scene.tell("multi session puppet_recurse 2 -1 0");
        scene.play(0, "recurse 3");
        let log = scene.log();
        scene.end();
        log
    });
    let expected = "2:entry(3)@a 1:entry(3)@a 2:entry(2)@a 1:entry(2)@a 2:entry(1)@a 1:entry(1)@a \
                    2:entry(0)@a 1:entry(0)@a \
                    2:return(0)kept=1000@a 1:return(0)kept=1000@a \
                    2:return(2)kept=1002@a 1:return(2)kept=1002@a";
    assert_eq!(said, expected);
}

#[test]
fn process_filters_mean_the_process_and_its_threads() {
    let said = same(|world| {
        let mut scene = Scene::new(world, 2);
        let pid = scene.puppets[0].pid();
        for line in [
            format!("perf entry puppet_step 1 {pid} 0"),
            format!("multi entry puppet_step 2 {pid} 0"),
            format!("multi session puppet_step 3 {pid} 0"),
            format!("perf back puppet_step 4 {pid} 0"),
            "multi entry puppet_step 5 -1 0".to_owned(),
        ] {
            scene.tell(&line);
        }
        let mut said = Vec::new();
        for (puppet, line) in [
            (0, "call 1"),
            (1, "call 1"),
            (0, "threads 1 2"),
            (0, "fork 1"),
            (0, "vfork 1"),
            (0, "spawn 2"),
            (0, "daemon 1"),
        ] {
            scene.play(puppet, line);
            said.push(format!("{line}: {}", scene.log()));
        }
        // No process has this id.
        said.push(scene.tool.ask("perf entry puppet_step 6 99999999 0"));
        said.push(scene.tool.ask("multi entry puppet_step 6 99999999 0"));
        scene.end();
        said.join("\n")
    });
    assert!(
        said.contains("\nfork 1: 5:entry(0)@child\n") && said.ends_with("errno 3\nerrno 3"),
        "{said}"
    );
}

#[test]
fn switching_an_event_off_leaves_its_program_running() {
    let said = same(|world| {
        let mut scene = Scene::new(world, 1);
        // Both events are opened disabled.
        scene.tell("ioctl entry puppet_step -1");
        scene.tell("perf back puppet_step 1 -1 0");
        let mut said = Vec::new();
        for line in [None, Some("enable"), Some("disable"), Some("disable")] {
            if let Some(line) = line {
                scene.tell(&format!("{line} 0"));
                scene.tell(&format!("{line} 1"));
            }
            scene.play(0, "call 1");
            said.push(scene.log());
        }
        scene.end();
        said.join("\n")
    });
    assert_eq!(said, ["0:entry(0)@a 1:return(1)@a"; 4].join("\n"));
}

#[test]
fn links_tell_what_they_are() {
    same(|world| {
        let mut scene = Scene::new(world, 1);
        let pid = scene.puppets[0].pid();
        for line in [
            "perf entry puppet_step 7 -1 0".to_owned(),
            "perf back puppet_step+1 8 -1 0".to_owned(),
            "multi entry puppet_step 9 -1 0".to_owned(),
            format!("multi back puppet_recurse 10 {pid} 0"),
            "multi session puppet_step 11 -1 0".to_owned(),
            "many entry puppet_".to_owned(),
        ] {
            scene.tool.ask(&line);
        }
        let infos: Vec<String> = (0..6)
            .map(|n| scene.tool.ask(&format!("info {n}")))
            .collect();
        scene.end();
        infos.join("\n")
    });
}

#[test]
fn what_the_kernel_refuses_is_refused_with_its_errno() {
    const INSTRUCTIONS: usize = 20;
    let said = same(|world| {
        let mut scene = Scene::new(world, 1);
        let pid = scene.puppets[0].pid();
        let mut said = Vec::new();
        let mut made = 0;
        for n in 0..INSTRUCTIONS {
            let place = format!("odd_instructions+{}", 16 * n);
            for line in [
                format!("perf entry {place} 1 -1 0"),
                format!("multi back {place} 1 {pid} 0"),
            ] {
                let answer = scene.tool.ask(&line);
                if answer == "ok" {
                    scene.tell(&format!("close {made}"));
                    made += 1;
                }
                said.push(answer);
            }
        }
        scene.end();
        said.join(" ")
    });
    assert_eq!(said.matches("errno 524").count(), 2 * 13, "{said}");
}

#[test]
fn what_a_process_has_not_mapped_is_not_looked_at() {
    let said = same(|world| {
        let mut scene = Scene::new(world, 1);
        let other = std::process::id();
        let said = ["perf entry", "multi back"].map(|how| {
            scene
                .tool
                .ask(&format!("{how} odd_instructions 1 {other} 0"))
        });
        scene.end();
        said.join(" ")
    });
    assert_eq!(said, "ok ok");
}

#[test]
fn a_place_has_one_reference_counter() {
    let said = same(|world| {
        let mut scene = Scene::new(world, 1);
        let mut said = Vec::new();
        for line in [
            "perf entry puppet_step 1 -1 0+6",
            "perf entry puppet_step 2 -1 0",
            "perf back puppet_step 2 -1 0+8",
            "multi entry puppet_step 3 -1 0",
            "multi entry puppet_step 3 -1 0+6",
            "perf back puppet_step 4 -1 0+6",
            "perf entry puppet_step+1 5 -1 0+8",
            "close 0",
            "multi session puppet_step 6 -1 0",
            "close 1",
            "close 2",
            "multi session puppet_step 7 -1 0",
            "perf entry puppet_step 8 -1 0+6",
        ] {
            said.push(format!("{line}: {}", scene.tool.ask(line)));
        }
        scene.end();
        said.join("\n")
    });
    assert_eq!(said.matches("errno 22").count(), 5, "{said}");
}

#[test]
fn eight_threads_count_in_per_cpu_values_exactly() {
    const CALLS: u64 = 100_000;
    let world = World::new();
    let path = world.fixture("victim");
    let mut tool = Program::on_pipes(world.tool(&[world.fixture("cost"), path.clone()]));
    assert_eq!(tool.line(), "ready");
    let mut victim = world.start(&[path]);
    assert_eq!(victim.line(), format!("pid {}", victim.pid()));
    let mut calls = 0;
    for kind in ["entry", "return", "entry"] {
        let attach = format!("attach percpu v_push {kind}");
        assert_eq!(tool.ask(&attach), "attached");
        victim.ask(&format!("8:v_push {CALLS}"));
        calls += 8 * CALLS;
        assert_eq!(tool.ask("detach"), format!("counted {calls}"), "{kind}");
    }
    assert_eq!(victim.finish().code, 0);
    assert_eq!(tool.finish().code, 0);
}
