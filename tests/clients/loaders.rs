//! Tools that make their system calls by themselves: static C with libbpf, Go
//! with cilium/ebpf, and one that is asked for what a process is as a whole.

use std::time::Duration;

use bpftime_tests::{Counted, Mode, Program, World, wait};
use nix::sys::signal::Signal;

/// Runs a story in both worlds and compares what it says.
fn same(story: impl Fn(&World) -> String) -> String {
    let ours = story(&World::new());
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, story(&kernel), "left: bpftime, right: kernel");
    }
    ours
}

fn play(puppet: &mut Program, lines: &[&str]) {
    for line in lines {
        assert_eq!(puppet.ask(line), "ok", "{line}");
    }
}

#[test]
fn go_cilium_ebpf() {
    const COUNTS: &str = "0:2 1:2 2:2 3:1 4:1 5:1 6:1 7:1 8:1 9:1 sum 48 inner [7 6] wait4 1";
    same(|world| {
        let (path, object) = (world.fixture("puppet"), world.fixture("golink.bpf.o"));
        let mut puppet = world.puppet();
        let words = [
            world.fixture("golink").into_os_string(),
            object.into(),
            puppet.pid().to_string().into(),
            path.into(),
            "puppet_step".into(),
        ];
        let mut tool = Program::on_pipes(world.tool(&words));
        assert_eq!(tool.line(), "ready");
        play(&mut puppet, &["call 10", "call 3"]);
        let said = [tool.ask("ring 13"), tool.ask("perf 13")];
        // A child, whom the process filter leaves out.
        play(&mut puppet, &["fork 4"]);
        assert_eq!(tool.ask("counts"), COUNTS);
        if world.mode() == Mode::Bpftime {
            let id = tool.ask("id");
            let words = ["exec", "bpftool", "-j", "map", "dump", "id", &id];
            let dump = world.run(&words).stdout;
            assert_eq!(dump.matches("\"formatted\"").count(), 10, "{dump}");
        }
        assert_eq!(tool.ask("detach"), "ok");
        play(&mut puppet, &["call 5", "fork 1"]);
        assert_eq!(tool.ask("counts"), COUNTS);
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        said.join("\n")
    });
}

#[test]
fn static_libbpf_counts() {
    let said = same(|world| {
        let path = world.fixture("puppet");
        let options = ["-m", "5", "-w", "3"];
        let mut counter = world.fixture_tool("counter_static", &options, &path, "puppet_step");
        let mut puppet = world.puppet();
        play(&mut puppet, &["call 12", "threads 2 1000"]);
        let first = Counted::by(&mut counter).text();
        assert_eq!(counter.ask("detach"), "detached");
        play(&mut puppet, &["call 5"]);
        assert_eq!(counter.ask("attach"), "ready");
        play(&mut puppet, &["call 6"]);
        let second = Counted::by(&mut counter).text();
        counter.tell("quit");
        assert_eq!(counter.finish().code, 0);
        format!("{first}\n{second}")
    });
    assert!(said.starts_with("calls 2012\nweighed 6036\n"), "{said}");
}

#[test]
fn static_libbpf_ring_buffer() {
    same(|world| {
        let path = world.fixture("tgt");
        let mut tool = world.fixture_tool("ringtrace_static", &["-s"], &path, "tgt_add");
        // It waits: each batch of records wakes it.
        let mut lines = Vec::new();
        for _ in 0..3 {
            tool.wait_idle();
            let exit = world.start(&[path.as_os_str(), "30".as_ref()]).finish();
            assert_eq!(exit.code, 0);
            lines.extend((0..30).map(|_| tool.line()));
        }
        tool.tell("quit");
        lines.extend(tool.lines_until(|line| line.starts_with("dropped")));
        assert_eq!(tool.finish().code, 0);
        lines.join("\n")
    });
}

#[test]
fn static_libbpf_maps_in_maps() {
    same(|world| {
        let path = world.fixture("puppet");
        let mut tool = world.fixture_tool("nested_static", &[], &path, "puppet_step");
        let mut puppet = world.puppet();
        let mut said = Vec::new();
        for place in ["second", "none", "first"] {
            said.push(tool.ask(place));
            play(&mut puppet, &["call 20"]);
            said.push(tool.ask("counts"));
        }
        // Maps that go with the only fd that the tool has of them.
        for number in 0..20 {
            play(&mut puppet, &[&format!("call {number}")]);
            said.push(tool.ask("fresh"));
        }
        said.push(tool.ask("hash 1"));
        tool.tell("quit");
        assert_eq!(tool.finish().code, 0);
        said.join("\n")
    });
}

/// A tool with a session of its own; in the kernel's world without bpftime.
fn alone(world: &World) -> Program {
    let mut tool = Program::on_pipes(world.tool(&[world.fixture("alone")]));
    assert_eq!(tool.line(), "ready");
    tool
}

#[test]
fn fds_of_a_static_tool() {
    let said = same(|world| {
        let mut tool = alone(world);
        let lines = [
            "get 1",
            "put 1 10",
            "get 1",
            "forked 1",
            "copy",
            "get 1",
            "put 2 5",
            "forked 2",
            "executed",
            "get 1",
            "threads 4",
            "wait",
        ];
        let said = lines.map(|line| tool.ask(line)).join(" ");
        tool.tell("exit 7");
        assert_eq!(tool.finish().code, 7);
        said
    });
    assert!(said.starts_with("ENOENT ok 10 10 ok 10 ok 5 "), "{said}");
    assert!(said.ends_with(" 10 400 ECHILD"), "{said}");
}

#[test]
fn a_supervised_tool_is_the_process_that_the_user_started() {
    let world = World::new();
    let mut tool = alone(&world);
    let own = format!("{} {}", tool.pid(), std::process::id());
    assert_eq!(tool.ask("pid"), own);
    // Locked memory is no matter.
    assert_eq!(tool.ask("memlock"), "ok");
    // The session is known by the tool.
    let words = [
        "exec",
        "--session",
        &tool.pid().to_string(),
        "--",
        "bpftool",
        "map",
        "list",
    ];
    let list = world.run(&words).stdout;
    assert!(list.contains("hash  name alone"), "{list}");
    // Stopped and continued as any process.
    tool.signal(Signal::SIGSTOP);
    tool.signal(Signal::SIGCONT);
    assert_eq!(tool.ask("put 1 2"), "ok");
    tool.tell(&format!("raise {}", Signal::SIGUSR1 as i32));
    assert_eq!(tool.finish().code, 128 + Signal::SIGUSR1 as i32);
    world.expect_nothing_left();
}

#[test]
fn a_supervised_tool_on_a_terminal_is_interrupted() {
    let world = World::new();
    let command = world.tool(&[world.fixture("alone")]);
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let mut tool = Program::on_pipes(world.plain(&[
        "script",
        "-qec",
        &format!("exec {}", words.join(" ")),
        "/dev/null",
    ]));
    assert_eq!(tool.line().trim_end(), "ready");
    tool.tell("\u{3}");
    assert_eq!(tool.finish().code, 128 + Signal::SIGINT as i32);
    world.expect_nothing_left();
}

#[test]
fn a_supervised_tool_that_is_killed_takes_its_probes_along() {
    let world = World::new();
    let path = world.fixture("puppet");
    let tool = world.fixture_tool("counter_static", &[], &path, "puppet_step");
    let mut puppet = world.puppet();
    play(&mut puppet, &["call 3"]);
    tool.kill();
    wait::until_true("the session ends", Duration::from_secs(20), || {
        !world.run(&["status"]).stdout.starts_with("session ")
    });
    play(&mut puppet, &["call 3"]);
    assert_eq!(puppet.finish().code, 0);
    world.expect_nothing_left();
}

/// The process that answers for `tool`: its session's lock is its.
fn supervisor(tool: &Program) -> Option<i32> {
    let name = "bpftime-server\n";
    let of_it = |pid: i32| {
        let environ = std::fs::read(format!("/proc/{pid}/maps")).ok()?;
        let session = format!("/{}-0/objects", tool.pid());
        let maps = String::from_utf8_lossy(&environ);
        maps.contains(&session).then_some(pid)
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find_map(|pid: i32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (comm == name).then_some(pid).and_then(of_it)
    })
}

#[test]
fn without_its_supervisor_a_tool_goes_on_without_bpf() {
    let world = World::new();
    let mut tool = alone(&world);
    assert_eq!(tool.ask("put 1 2"), "ok");
    let pid = supervisor(&tool).expect("a supervisor");
    let killed = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    assert_eq!(killed, Ok(()));
    wait::until_true("calls are refused", Duration::from_secs(20), || {
        tool.ask("get 1") == "ENOSYS"
    });
    wait::until_true("the session ends", Duration::from_secs(20), || {
        !world.run(&["status"]).stdout.starts_with("session ")
    });
    tool.tell("exit 3");
    assert_eq!(tool.finish().code, 3);
}

#[test]
fn few_fds_are_an_errno() {
    let world = World::new();
    let script = "ulimit -Sn 24; exec \"$@\"";
    let mut words = vec!["sh".into(), "-c".into(), script.into(), "sh".into()];
    let command = world.tool(&[world.fixture("alone")]);
    words.push(command.get_program().to_owned());
    words.extend(command.get_args().map(ToOwned::to_owned));
    let mut tool = Program::on_pipes(world.plain(&words));
    assert_eq!(tool.line(), "ready");
    // Three fds are its streams, one is the first map, and whoever runs this test
    // may hand on others.
    let inherited: usize = tool.ask("executed").parse().expect("a number");
    let filled = format!("{} EMFILE", 20 - inherited);
    assert_eq!(tool.ask("fill"), filled);
    assert_eq!(tool.ask("fill"), filled);
    assert_eq!(tool.ask("put 1 1"), "ok");
    tool.tell("exit 0");
    assert_eq!(tool.finish().code, 0);
}

#[test]
fn a_daemon_is_served_when_its_parent_has_ended() {
    let said = same(|world| {
        let mut tool = alone(world);
        // The daemon has the fds and the streams.
        tool.tell("daemon 5");
        let said = ["put 3 4", "get 3", "threads 2"].map(|line| tool.ask(line));
        tool.tell("exit 0");
        assert_eq!(tool.finish().code, 5);
        said.join(" ")
    });
    assert_eq!(said, "ok 4 200");
}

#[test]
fn a_wrapper_hands_supervision_on() {
    let world = World::new();
    let alone = world.fixture("alone");
    let script = format!("{} < /dev/null; exec {0}", alone.display());
    let words = ["load", "--supervise", "sh", "-c", &script];
    let mut tool = Program::on_pipes(world.bpftime(&words));
    assert_eq!((tool.line(), tool.line()), ("ready".into(), "ready".into()));
    assert_eq!(tool.ask("put 1 5"), "ok");
    assert_eq!(tool.ask("get 1"), "5");
    tool.tell("exit 9");
    assert_eq!(tool.finish().code, 9);
    world.expect_nothing_left();
}

#[test]
fn a_dynamic_tool_is_supervised_on_request() {
    let world = World::new();
    let path = world.fixture("puppet");
    let words = [
        "load".into(),
        "--supervise".into(),
        world.fixture("counter").into_os_string(),
        path.into(),
        "puppet_step".into(),
    ];
    let mut counter = Program::on_pipes(world.bpftime(&words));
    assert_eq!(counter.line(), "ready");
    let mut puppet = world.puppet();
    play(&mut puppet, &["call 25"]);
    assert_eq!(counter.ask("total"), "25");
    counter.tell("quit");
    assert_eq!(counter.finish().code, 0);
}
