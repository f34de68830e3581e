//! System call tracing under the kernel and under bpftime: the same program
//! must make the same calls, by number, with the same arguments and results.

use std::cell::Cell;
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

#[test]
fn text_that_moves_and_becomes_other_text() {
    same("moved", |_| false);
}

/// Runs a tool beside `calls` of an own name until it has shown so many lines
/// about files of the story; gives what it printed.
fn tool_beside(world: &World, tool: &[&str], name: &str, lines: u32) -> String {
    let calls = world.home().join(name);
    fs::copy(world.fixture("calls"), &calls).expect("a copy of its own");
    let mut tool = world.load(tool);
    tool.wait_idle();
    let library = world.fixture("libplug.so").into_os_string();
    let exit = world
        .start(&[calls.into_os_string(), "plain".into(), library])
        .finish();
    assert_eq!(exit.code, 0);
    let seen = Cell::new(0);
    let is_last = |line: &str| {
        seen.set(
            seen.get()
                + u32::from(line.contains("/etc/hostname") || line.contains("/nonexistent/")),
        );
        seen.get() == lines
    };
    if lines != 0 {
        tool.lines_until(is_last);
    }
    tool.interrupt().stdout
}

/// The same in both worlds; `rows` picks and cleans what is compared.
fn both(tool: &[&str], name: &str, lines: u32, rows: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let sorted = |world: &World| {
        let mut rows = rows(&tool_beside(world, tool, name, lines));
        rows.sort();
        rows
    };
    let ours = sorted(&World::new());
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, sorted(&kernel), "left: bpftime, right: kernel");
    }
    ours
}

#[test]
fn opensnoop_shows_what_is_opened() {
    let rows = both(
        &["opensnoop", "-n", "calls-open"],
        "calls-open",
        20,
        |text| {
            let of_program =
                |line: &&str| line.contains("hostname") || line.contains("nonexistent");
            // Nor the fd, which depends on what the test has open.
            let without_pid = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                [words[1], words[3], words[4]].join(" ")
            };
            text.lines().filter(of_program).map(without_pid).collect()
        },
    );
    assert_eq!(rows.len(), 20);
    assert_eq!(rows[19], "calls-open 2 /nonexistent/file");
    assert_eq!(rows[0], "calls-open 0 /etc/hostname");
}

#[test]
fn bpftrace_counts_paths_and_numbers() {
    let script = r#"
        tracepoint:syscalls:sys_enter_openat /comm == "calls-trace"/ {
            @paths[str(args->filename)] = count();
        }
        tracepoint:raw_syscalls:sys_enter /comm == "calls-trace"/ { @numbers[args->id] = count(); }
        tracepoint:syscalls:sys_exit_read /comm == "calls-trace" && args->ret == 1/ {
            @ones = count();
        }"#;
    let rows = both(&["bpftrace", "-e", script], "calls-trace", 0, |text| {
        let of_program = |line: &&str| {
            [
                "[/etc/hostname]",
                "[/nonexistent",
                "[140]",
                "[110]",
                "[-1]",
                "[5000]",
                "@ones",
            ]
            .iter()
            .any(|part| line.contains(part))
        };
        text.lines().filter(of_program).map(str::to_owned).collect()
    });
    assert_eq!(
        rows,
        [
            "@numbers[-1]: 20",
            "@numbers[110]: 20",
            "@numbers[140]: 60",
            "@numbers[5000]: 20",
            "@ones: 10",
            "@paths[/etc/hostname]: 10",
            "@paths[/nonexistent/file]: 10",
        ]
    );
}

#[test]
fn execsnoop_sees_children_become_programs() {
    for world in std::iter::once(World::new()).chain(World::kernel()) {
        let mut tool = world.load(&["execsnoop", "-n", "true"]);
        tool.wait_idle();
        let script = "for i in 1 2 3; do /bin/true marked-$i; done";
        let shell = world.start(&["sh", "-c", script]);
        let parent = shell.pid().to_string();
        assert_eq!(shell.finish().code, 0);
        tool.lines_until(|line| line.contains("marked-3"));
        let text = tool.interrupt().stdout;
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.contains("marked-"))
            .map(|line| line.split_whitespace().collect())
            .collect();
        // Name, pid, parent, result, arguments.
        assert_eq!(rows.len(), 3, "{text}");
        for (row, i) in rows.iter().zip(1..) {
            let argument = format!("marked-{i}");
            assert_eq!((row[0], row[3], row[5]), ("true", "0", argument.as_str()));
            assert_eq!(row[2], parent, "{text}");
        }
    }
}

/// What a program finds that walks from its task.
#[test]
fn tasks_are_the_kernels() {
    let of_task = |name: &str, script: &str| {
        both(&["bpftrace", "-e", script], name, 0, |text| {
            let lines = text.lines().filter(|line| line.starts_with('@'));
            lines.map(str::to_owned).collect()
        })
    };
    let rows = of_task(
        "calls-task",
        r#"
        tracepoint:syscalls:sys_enter_openat /comm == "calls-task"/ {
            $t = (struct task_struct *)curtask;
            @own[$t->pid == tid, $t->tgid == pid, $t->comm, $t->group_leader->pid == pid,
                $t->group_leader->tgid == pid, $t->group_leader->comm] = 1;
            @parent[$t->real_parent->tgid, $t->parent->tgid,
                $t->real_parent->group_leader->comm,
                $t->real_parent->group_leader->pid] = 1;
            @above[$t->real_parent->real_parent->tgid] = 1;
            @cred[$t->cred->uid.val, $t->cred->euid.val, $t->real_cred->gid.val] = 1;
            @ns[$t->nsproxy->mnt_ns->ns.inum, $t->nsproxy->pid_ns_for_children->ns.inum,
                $t->nsproxy->net_ns->ns.inum] = 1;
            @ns2[$t->nsproxy->uts_ns->ns.inum, $t->nsproxy->ipc_ns->ns.inum,
                $t->nsproxy->cgroup_ns->ns.inum, $t->nsproxy->time_ns->ns.inum] = 1;
            @host[$t->nsproxy->uts_ns->name.nodename] = 1;
            @zero[$t->exit_code, $t->mm == 0, $t->exit_state] = 1;
            $age = nsecs - $t->start_time;
            @young[$age > 0 && $age < 60000000000] = 1;
            @boot[$t->start_boottime >= $t->start_time] = 1;
        }"#,
    );
    let me = std::process::id();
    assert!(rows.contains(&"@own[1, 1, calls-task, 1, 1, calls-task]: 1".to_owned()));
    let starts = |text: String| rows.iter().any(|row| row.starts_with(&text));
    assert!(starts(format!("@parent[{me}, {me}, ")), "{rows:#?}");
    assert!(starts("@zero[0, 0, 0]".to_owned()), "{rows:#?}");
    assert!(starts("@young[1]".to_owned()), "{rows:#?}");
    assert!(starts("@boot[1]".to_owned()), "{rows:#?}");
}

/// The kernel has no such thing for tracepoints.
#[test]
fn a_filter_answers_calls_in_the_kernels_place() {
    let world = World::new();
    let mut tool = world.load(&[world.fixture("denies")]);
    assert_eq!(tool.line(), "ready");
    let files = ["keep_one", "loses", "keep_two"].map(|name| world.home().join(name));
    for file in &files {
        fs::write(file, "").expect("a file in a directory of the user's");
    }
    let directory = world.home().to_path_buf();
    let remove = |words: &[&str]| {
        let script = format!("cd {} && rm {}", directory.display(), words.join(" "));
        world.start(&["/bin/sh", "-c", &script]).finish()
    };
    let exit = remove(&["keep_one", "loses", "keep_two"]);
    assert_eq!(exit.code, 1);
    let reason = "Operation not permitted";
    for name in ["keep_one", "keep_two"] {
        let line = format!("rm: cannot remove '{name}': {reason}");
        assert!(exit.stderr.lines().any(|l| l == line), "{}", exit.stderr);
    }
    assert_eq!(files.map(|file| file.exists()), [true, false, true]);
    tool.hang_up();
    assert_eq!(tool.line(), "denied 2 result -1");
    assert_eq!(tool.finish().code, 0);
    assert_eq!(remove(&["keep_one", "keep_two"]).code, 0);
}

/// Programs of one kind run as they came. What kind is first depends, in the
/// kernel, on whatever else traces calls at the time.
#[test]
fn programs_run_in_the_kernels_order() {
    const NAME: &str = "calls-lineup";
    const KINDS: [&str; 6] = ["abc", "mn", "xy", "AB", "M", "X"];
    let story = |world: &World| {
        let calls = world.home().join(NAME);
        fs::copy(world.fixture("calls"), &calls).expect("a copy of its own");
        let library = world.fixture("libplug.so").into_os_string();
        let words = [calls.into_os_string(), "plain".into(), library];
        let tool = world.fixture("lineup").into_os_string();
        let mut tool = Program::on_pipes(world.tool(&[tool, NAME.into()]));
        assert_eq!(tool.line(), "ready");
        let (mut all, mut of_kinds) = (Vec::new(), Vec::new());
        for line in [
            "+abc",
            "-b",
            "+b",
            "+x",
            "-a",
            "+ma",
            "+dyn",
            "-m",
            "+m",
            "+AXMB",
            "-A",
            "+A",
            "-cbad",
            "+ba",
            "-bamnxyAXMB",
            "+nXbxBAay",
        ] {
            assert_eq!(tool.ask(line), "ok", "{line}");
            assert_eq!(world.start(&words).finish().code, 0);
            let notes = tool.ask("notes");
            // The same at each of 20 calls.
            let once = notes.get(..notes.len() / 20).unwrap_or_default();
            assert_eq!(once.repeat(20), notes, "{line}");
            let of_kind = |kind: &&str| once.replace(|letter| !kind.contains(letter), "");
            let kinds: Vec<String> = KINDS.iter().map(of_kind).collect();
            of_kinds.push(format!("{line}: {}", kinds.join(" ")));
            all.push(once.to_owned());
        }
        tool.hang_up();
        assert_eq!(tool.finish().code, 0);
        (of_kinds.join("\n"), all)
    };
    let (ours, all) = story(&World::new());
    if let Some(kernel) = World::kernel() {
        assert_eq!(ours, story(&kernel).0, "left: bpftime, right: kernel");
    }
    // As in a kernel where nothing else is traced.
    let expected = ["abc", "ac", "acb", "acbx", "cbx", "cbaxm", "cbaxmny"];
    assert_eq!(
        all.get(..expected.len()),
        Some(&expected.map(str::to_owned)[..])
    );
    assert_eq!(all.last().map(String::as_str), Some("nbaxyXBA"));
}
