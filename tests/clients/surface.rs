//! Files of the kernel's that tools read and write, as an ordinary user sees
//! them under bpftime: what is in them is compared with the kernel's own.

use bpftime_tests::{Mode, Program, World};

use crate::table::{both, expand};

/// Writes lines to `uprobe_events` and shows what came of each.
const LINES: &str = include_str!("scripts/probe_lines.py");
const EVENTS: &str = "/sys/kernel/tracing/uprobe_events";

/// A name for a group of trace events that no other test has.
fn group(world: &World) -> String {
    let kind = match world.mode() {
        Mode::Bpftime => "ours",
        Mode::Kernel => "kernels",
    };
    format!("{kind}_{}", std::process::id())
}

/// What a tool prints; its stderr is empty and it succeeds.
fn printed(world: &World, words: &[&str]) -> String {
    let exit = Program::on_pipes(world.tool(&expand(world, words))).finish();
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (0, ""),
        "{words:?}: {exit:?}"
    );
    exit.stdout
}

/// Runs a script in a shell; its status and what it says on stderr.
fn shell(world: &World, shell: &str, script: &str) -> (i32, String) {
    let exit = Program::on_pipes(world.tool(&[shell, "-c", script])).finish();
    (exit.code, exit.stderr)
}

#[test]
fn lines_of_probes_are_answered_as_by_the_kernel() {
    let answers = |world: &World| {
        world.fixture("rounds");
        let script = world.home().join("probe_lines.py");
        std::fs::write(&script, LINES).expect("a script in the user's home");
        let group = group(world);
        let words = ["python3", "{home}/probe_lines.py", "{home}/rounds", &group];
        printed(world, &words)
    };
    let ours = answers(&World::new());
    assert!(
        ours.starts_with("p:G/a F:0x10\n\tall\np:G/a F:0x10\n\tEEXIST\n"),
        "{ours}"
    );
    assert!(
        ours.ends_with("[('G', 'wrote'), ('G-1', 'wrote')]\n[] [False, False]\n"),
        "{ours}"
    );
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, answers(&kernel));
    }
}

/// The tool `points` on `rounds`, and the offset of a function there.
fn points(world: &World) -> (Program, String) {
    let words = [world.fixture("points"), world.fixture("rounds")];
    let mut tool = Program::on_pipes(world.tool(&words));
    assert_eq!(tool.line(), "ready");
    let offset = tool.ask("place rounds_add");
    assert!(offset.starts_with("0x"), "{offset}");
    (tool, offset)
}

/// A log without the processes in it.
fn runs(log: &str) -> Vec<String> {
    let run = |word: &str| word.split('@').next().unwrap_or_default().to_owned();
    log.split_whitespace().map(run).collect()
}

#[test]
fn programs_run_at_probes_that_a_shell_made() {
    both(|world| {
        let (mut tool, offset) = points(world);
        let (group, file) = (group(world), world.home().join("rounds"));
        let place = format!("{}:{offset}", file.display());
        for line in [
            format!("p:{group}/add {place} number=%di text=+0(%si):string"),
            format!("r:{group}/back {place} sum=$retval"),
        ] {
            let script = format!("echo '{line}' >> {EVENTS}");
            assert_eq!(shell(world, "bash", &script), (0, String::new()));
        }
        assert_eq!(tool.ask(&format!("trace {group}/add entry -1 7")), "ok");
        assert_eq!(tool.ask(&format!("trace {group}/back back -1 -1")), "ok");

        // In use: it stays.
        let (code, said) = shell(world, "dash", &format!("echo '-:{group}/add' >> {EVENTS}"));
        assert_eq!(code, 1, "{said}");
        let (code, said) = shell(world, "bash", &format!("echo '-:{group}/add' >> {EVENTS}"));
        assert!(
            code == 1 && said.ends_with("Device or resource busy\n"),
            "{said}"
        );

        let work = world.start(&expand(world, &["{home}/rounds", "3"]));
        assert_eq!(work.finish().code, 0);
        let expected = [
            "7:entry(0)",
            "0:return(7)",
            "7:entry(1)",
            "0:return(10)",
            "7:entry(2)",
            "0:return(13)",
        ];
        assert_eq!(runs(&tool.ask("log")), expected, "{:?}", world.mode());

        // For one process only, and when all are closed it can go.
        assert_eq!(
            (tool.ask("close 0"), tool.ask("close 1")),
            ("ok".into(), "ok".into())
        );
        let mut target = world.start(&expand(world, &["{home}/rounds", "2", "0", "wait"]));
        let pid = target.line().replace("pid ", "");
        assert_eq!(tool.ask(&format!("trace {group}/add entry {pid} 9")), "ok");
        let other = world.start(&expand(world, &["{home}/rounds", "5"]));
        assert_eq!(other.finish().code, 0);
        target.tell("go");
        target.line();
        let log = tool.ask("log");
        assert_eq!(
            runs(&log),
            ["9:entry(0)", "9:entry(1)"],
            "{:?}",
            world.mode()
        );
        assert!(log.ends_with(&format!("@{pid}")), "{log}");
        assert_eq!(tool.ask("close 2"), "ok");

        let script = format!("echo '-:{group}/' >> {EVENTS}; ! grep {group} {EVENTS}");
        assert_eq!(shell(world, "bash", &script), (0, String::new()));
        let gone = format!("trace {group}/add entry -1 7");
        assert_eq!(tool.ask(&gone), format!("errno {}", libc::ENOENT));
        target.kill();
        tool.kill();
    });
}

/// What the kernel does, too; but there it would take away the events of others.
#[test]
fn probes_go_when_their_file_is_opened_anew() {
    let world = World::new();
    let (mut tool, offset) = points(&world);
    let place = format!("{}/rounds:{offset}", world.home().display());
    let script = format!(
        "cd /sys/kernel/tracing && echo 'p:one {place}\np {place}' > uprobe_events && cat uprobe_events"
    );
    let exit = Program::on_pipes(world.tool(&["bash", "-c", &script])).finish();
    let shown: u64 = u64::from_str_radix(&offset[2..], 16).expect("an offset");
    let listed = |name: &str| {
        format!(
            "p:uprobes/{name} {}/rounds:{shown:#018x}\n",
            world.home().display()
        )
    };
    let both = listed("one") + &listed(&format!("p_rounds_{offset}"));
    assert_eq!((exit.stdout, exit.stderr), (both, String::new()));
    assert_eq!(tool.ask("trace uprobes/one entry -1 3"), "ok");
    let (code, said) = shell(&world, "bash", &format!("> {EVENTS}"));
    assert!(
        code == 1 && said.ends_with("Device or resource busy\n"),
        "{said}"
    );
    assert_eq!(tool.ask("close 0"), "ok");
    // By a program that was executed with the fd, and is nobody's to ask.
    let script = format!("/bin/echo 'p:two {place}' > {EVENTS}; cut -d' ' -f1 {EVENTS}");
    assert_eq!(printed(&world, &["sh", "-c", &script]), "p:uprobes/two\n");
    tool.kill();
    let script = format!("> {EVENTS}; cat {EVENTS}; ls -A /sys/kernel/tracing/events");
    assert_eq!(
        printed(&world, &["sh", "-c", &script]),
        "raw_syscalls\nsched\nsyscalls\n"
    );
}

/// Kprobes at functions of system calls, by the names that shells give them.
#[test]
fn kprobes_are_made_by_text() {
    let world = World::new();
    let (mut tool, _) = points(&world);
    let events = "/sys/kernel/tracing/kprobe_events";
    let script = format!(
        "echo 'p:calls/enter __x64_sys_kill sig=$arg2' > {events}; \
        echo 'r8:calls/leave __x64_sys_kill $retval' >> {events}; \
        echo 'p __x64_sys_getppid+0' >> {events}; cat {events}; \
        echo 'p:calls/none vfs_read' >> {events} || echo 'p:calls/none __x64_sys_kill a=+0(' >> {events}"
    );
    let exit = Program::on_pipes(world.tool(&["bash", "-c", &script])).finish();
    let expected = "p:calls/enter __x64_sys_kill sig=$arg2\nr:calls/leave __x64_sys_kill arg1=$retval\n\
        p:kprobes/p___x64_sys_getppid_0 __x64_sys_getppid\n";
    assert_eq!(exit.stdout, expected);
    let said: Vec<&str> = exit
        .stderr
        .lines()
        .filter_map(|line| line.rsplit(": ").next())
        .collect();
    assert_eq!(
        said,
        ["No such file or directory", "Invalid argument"],
        "{exit:?}"
    );
    assert_eq!(tool.ask("trace calls/leave back -1 5"), "ok");
    let work = world.start(&["sh", "-c", "kill -0 $$; kill -9 4194303 2>/dev/null; :"]);
    assert_eq!(work.finish().code, 0);
    assert_eq!(runs(&tool.ask("log")), ["5:return(0)", "5:return(-3)"]);
    tool.kill();
}

/// How commands and Python see the tree: by paths from the root and from open
/// directories, by streams, lists, patterns and links.
#[test]
fn events_are_shown_as_by_the_kernel() {
    let script = include_str!("scripts/walk.sh");
    let shown = |world: &World| printed(world, &["sh", "-c", script]);
    let ours = shown(&World::new());
    assert!(
        ours.starts_with("/sys/kernel/tracing/events\ntracefs\ntracefs\ntracefs\n"),
        "{ours}"
    );
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, shown(&kernel));
    }
}
