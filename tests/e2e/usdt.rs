//! Static probes, with and without semaphores, in a program and in a library
//! that is opened late, traced by libbpf and by bpftrace as under the kernel.

use std::path::Path;

use bpftime_tests::{Program, World, wait};
use nix::sys::signal::Signal;

use crate::oracle::same;

fn tool(world: &World) -> Program {
    let mut tool = Program::on_pipes(world.tool(&[world.fixture("usdt")]));
    assert_eq!(tool.line(), "ready");
    tool
}

fn target(world: &World) -> Program {
    let mut target = world.start(&[world.fixture("sdt")]);
    assert_eq!(target.line(), format!("pid {}", target.pid()));
    target
}

fn attach(tool: &mut Program, path: &Path, probe: &str, cookie: u32, pid: i32) {
    let line = format!("attach {} {probe} {cookie} {pid}", path.display());
    assert_eq!(tool.ask(&line), "ok", "{line}");
}

#[test]
fn arguments_of_every_form() {
    let said = same(|world| {
        let path = world.fixture("sdt");
        let (mut tool, mut target) = (tool(world), target(world));
        let probes = [
            "plain",
            "registers",
            "constants",
            "memory",
            "local",
            "watched",
        ];
        for (probe, cookie) in probes.iter().zip(1..) {
            attach(&mut tool, &path, &format!("sdt {probe}"), cookie, -1);
        }
        assert_eq!(target.ask("fire 2"), "ok");
        tool.ask("log")
    });
    let expected = "1() 2(-1,-2,-32765,-124,-1,4294967294,32771,132) 3(-5,7,-3,200) 4(11,13,13) 5(0) 6(0,1) \
                    1() 2(-2,-2,-32765,-124,-2,4294967294,32771,132) 3(-5,7,-3,200) 4(11,13,13) 5(5) 6(1,8)";
    assert_eq!(said, expected);
}

#[test]
fn a_semaphore_counts_the_places_that_are_probed() {
    let said = same(|world| {
        let path = world.fixture("sdt");
        let (mut first, mut second, mut target) = (tool(world), tool(world), target(world));
        let mut said = vec![target.ask("count"), target.ask("fire 1"), first.ask("log")];
        attach(&mut first, &path, "sdt watched", 1, -1);
        said.push(target.ask("count"));
        // The same place again, by another tool.
        attach(&mut second, &path, "sdt watched", 2, -1);
        said.push(target.ask("count"));
        said.push(target.ask("fire 1"));
        said.extend([first.ask("log"), second.ask("log")]);
        // A child has its parent's value.
        said.push(target.ask("fork"));
        said.push(target.line());
        said.extend([first.ask("log"), second.ask("log")]);
        assert_eq!(first.ask("close 0"), "ok");
        said.push(target.ask("count"));
        // A tool that dies takes its probes along.
        second.signal(Signal::SIGKILL);
        second.finish();
        wait::until_true("the counter's fall", wait::LONG, || {
            target.ask("count") == "0"
        });
        said.push(target.ask("fire 1"));
        said.push(first.ask("log"));
        // One process only, and a target that starts when the probe is there.
        let mut other = self::target(world);
        attach(&mut first, &path, "sdt watched", 3, target.pid());
        said.extend([target.ask("count"), other.ask("count")]);
        // A child is not meant. Here it knows at once; in the kernel its counter
        // falls when it passes the probe.
        target.ask("fork");
        assert_eq!(
            (target.line(), first.ask("log")),
            ("ok".into(), String::new())
        );
        attach(&mut first, &path, "sdt watched", 4, -1);
        let mut late = self::target(world);
        said.extend([late.ask("count"), other.ask("count"), late.ask("fire 1")]);
        said.push(first.ask("log"));
        said.join("\n")
    });
    assert!(
        said.starts_with("0\nok\n\n1\n1\nok\n1(0,1)\n2(0,1)\n1\nok\n"),
        "{said}"
    );
}

#[test]
fn a_library_that_is_opened_late() {
    let said = same(|world| {
        let library = world.fixture("libsdtlib.so");
        let (mut tool, mut target) = (tool(world), target(world));
        attach(&mut tool, &library, "sdtlib called", 5, -1);
        assert_eq!(target.ask(&format!("open {}", library.display())), "ok");
        let raised = target.ask("lib 3");
        let log = tool.ask("log");
        assert_eq!(tool.ask("close 0"), "ok");
        [raised, log, target.ask("lib 1"), tool.ask("log")].join("\n")
    });
    assert_eq!(said, "1\n5(0) 5(3) 5(6)\n0\n");
}
