//! System calls of memory that is writable and executable: on request only, as
//! the kernel counts them, and gone without a trace.

use std::fs;
use std::time::Duration;

use bpftime_tests::{Program, World, wait};

const SECONDS: Duration = Duration::from_secs(20);
/// Those that only that memory makes, or all make alike.
const NUMBERS: [i64; 5] = [
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
];

fn tool(world: &World, name: &str) -> Program {
    let tool = world.fixture("calltrace").into_os_string();
    let mut tool = Program::on_pipes(world.tool(&[tool, name.into()]));
    assert_eq!(tool.line(), "ready");
    tool
}

fn counts(tool: &mut Program) -> Vec<String> {
    tool.tell("print");
    let mut lines = tool.lines_until(|line| line == "end");
    lines.retain(|line| {
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        let number = words.next().and_then(|word| word.parse().ok());
        (kind.starts_with("raw-") || kind == "enter" || kind == "exit")
            && number.is_some_and(|number: i64| NUMBERS.contains(&number))
    });
    lines
}

fn target(world: &World, name: &str, breakpoints: bool) -> Program {
    let path = world.home().join(name);
    fs::copy(world.fixture("jit"), &path).expect("a copy of its own");
    let mut target = if breakpoints {
        let words = ["start", "--breakpoints", path.to_str().expect("a name")];
        Program::on_pipes(world.bpftime(&words))
    } else {
        world.start(&[path])
    };
    assert!(target.line().starts_with("pid "));
    target
}

fn end(mut target: Program) {
    target.tell("quit");
    assert_eq!(target.finish().code, 0);
}

#[test]
fn without_a_request_nothing_changes() {
    let world = World::new();
    let mut tool = tool(&world, "jit-without");
    let mut target = target(&world, "jit-without", false);
    assert_eq!(target.ask("map"), "ok");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(target.ask("caught"), "no");
    let status = world.run(&["status"]).stdout;
    assert!(status.contains("text that is writable, too"), "{status}");
    assert_eq!(target.ask("run 10"), "ok");
    assert_eq!(target.ask("caught"), "no");
    end(target);
    tool.tell("quit");
    assert_eq!(tool.finish().code, 0);
}

#[test]
fn counts_are_those_of_the_kernel() {
    let told = |world: &World, name: &str, waits: bool| {
        let mut tool = tool(world, name);
        let mut target = target(world, name, waits);
        assert_eq!(target.ask("map"), "ok");
        if waits {
            wait::until_true("a handler", SECONDS, || target.ask("caught") == "yes");
            let status = world.run(&["status"]).stdout;
            assert!(!status.contains("text that is writable, too"), "{status}");
        }
        assert_eq!(target.ask("run 100"), "ok");
        let counts = counts(&mut tool);
        end(target);
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        counts
    };
    let ours = told(&World::new(), "jit-counted", true);
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, told(&kernel, "jit-counted", false));
    }
    // Four threads, three times, and a child; each asks once more.
    let calls = 4 * 3 * 100 + 100;
    let parents = format!("raw-enter {} {}", libc::SYS_getppid, calls + 4 + 1);
    assert!(ours.contains(&parents), "{parents}: {ours:?}");
}

#[test]
fn busy_threads_go_on_without_the_tool() {
    let world = World::new();
    let mut target = target(&world, "jit-busy", true);
    assert_eq!(target.ask("map"), "ok");
    for round in 0..3 {
        let mut tool = tool(&world, "jit-busy");
        wait::until_true("a handler", SECONDS, || target.ask("caught") == "yes");
        if round == 0 {
            assert_eq!(target.ask("run 10"), "ok");
            assert_eq!(target.ask("busy"), "ok");
        }
        std::thread::sleep(Duration::from_millis(300));
        if round == 1 {
            tool.tell("quit");
            assert_eq!(tool.finish().code, 0);
        } else {
            tool.kill();
        }
        wait::until_true("no handler", SECONDS, || target.ask("caught") == "no");
        assert_eq!(target.ask("wrong"), "0");
    }
    end(target);
}

#[test]
fn what_it_cannot_do_ends_it_without_harm() {
    let world = World::new();
    let mut tool = tool(&world, "jit-ends");
    for word in ["many", "seccomp"] {
        let mut target = target(&world, "jit-ends", true);
        let pid = target.pid().to_string();
        assert_eq!(target.ask("map"), "ok");
        wait::until_true("a handler", SECONDS, || target.ask("caught") == "yes");
        assert_eq!(target.ask("own"), "ok");
        assert_eq!(target.ask("wrong"), "1000");
        let again = world.run(&["attach", "--breakpoints", &pid]);
        assert_eq!(target.ask(word), "ok", "{again:?}");
        wait::until_true("no handler", SECONDS, || target.ask("caught") == "no");
        assert_eq!(target.ask("many"), "ok");
        end(target);
    }
    tool.tell("quit");
    assert_eq!(tool.finish().code, 0);
}

#[test]
fn an_attached_process_is_left_without_a_trace() {
    let world = World::new();
    let mut tool = tool(&world, "jit-attached");
    let path = world.home().join("jit-attached");
    fs::copy(world.fixture("jit"), &path).expect("a copy of its own");
    let mut target = Program::on_pipes(world.plain(&[path]));
    assert!(target.line().starts_with("pid "));
    let pid = target.pid().to_string();
    assert_eq!(target.ask("map"), "ok");
    assert_eq!(target.ask("run 1"), "ok");
    assert_eq!(target.ask("busy"), "ok");
    for _ in 0..3 {
        assert_eq!(world.run(&["attach", "--breakpoints", &pid]).code, 0);
        wait::until_true("a handler", SECONDS, || target.ask("caught") == "yes");
        assert_eq!(target.ask("run 10"), "ok");
        assert_eq!(world.run(&["detach", &pid]).code, 0);
        wait::until_true("no handler", SECONDS, || target.ask("caught") == "no");
        assert_eq!(target.ask("run 10"), "ok");
    }
    end(target);
    tool.tell("quit");
    assert_eq!(tool.finish().code, 0);
}
