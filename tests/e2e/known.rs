//! Tools from Debian's packages, unmodified, with the rows that they print
//! under the kernel.

use bpftime_tests::{Mode, Program, World};

/// Tells a story under bpftime, and under the kernel where that can be had.
fn both(story: impl Fn(&World)) {
    if let Some(kernel) = World::kernel() {
        story(&kernel);
    }
    story(&World::new());
}

/// The lines of `text` without the first `columns` words of each.
fn without_columns(text: &str, columns: usize) -> Vec<String> {
    text.lines()
        .map(|line| {
            line.split_whitespace()
                .skip(columns)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

#[test]
fn bashreadline_shows_what_was_typed() {
    both(|world| {
        let mut tool = world.load(&["bashreadline"]);
        assert_eq!(without_columns(&tool.line(), 0), ["TIME PID COMMAND"]);

        let mut bash = world.start(&["bash", "--norc", "-i"]);
        bash.tell("echo hi");
        bash.tell("exit");
        let pid = bash.pid();
        let bash = bash.finish();
        assert_eq!((bash.code, bash.stdout.as_str()), (0, "hi\n"));

        let rows = [tool.line(), tool.line()];
        assert!(
            rows.iter()
                .all(|row| row.split_whitespace().nth(1) == Some(&pid.to_string())),
            "{rows:?}"
        );
        assert_eq!(without_columns(&rows.join("\n"), 2), ["echo hi", "exit"]);
        let tool = tool.interrupt();
        assert_eq!((tool.code, tool.stdout.lines().count()), (0, 3), "{tool:?}");
    });
}

#[test]
fn gethostlatency_shows_each_lookup() {
    both(|world| {
        let mut tool = world.load(&["gethostlatency"]);
        assert_eq!(
            without_columns(&tool.line(), 0),
            ["TIME PID COMM LATms HOST"]
        );

        let gai = world.fixture("gai");
        let exit = world.start(&[gai.as_os_str(), "4".as_ref()]).finish();
        assert_eq!(
            (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
            (0, "", "")
        );

        let rows: Vec<_> = (0..12).map(|_| tool.line()).collect();
        let mut hosts = without_columns(&rows.join("\n"), 4);
        // The kernel cannot read the first name when its page is not resident.
        if hosts[0].is_empty() {
            assert_eq!(world.mode(), Mode::Kernel);
            hosts[0] = "ip6-localhost".into();
        }
        let expected: Vec<_> = (0..4)
            .flat_map(|i| {
                [
                    if i % 2 == 0 {
                        "ip6-localhost"
                    } else {
                        "localhost"
                    },
                    "localhost",
                    "localhost",
                ]
            })
            .collect();
        assert_eq!(hosts, expected);
        assert!(
            rows.iter()
                .all(|row| row.split_whitespace().nth(2) == Some("gai")),
            "{rows:?}"
        );
        assert_eq!(tool.interrupt().stdout.lines().count(), 13);
    });
}

#[test]
fn funclatency_fills_the_right_buckets() {
    both(|world| {
        let tgt = world.fixture("tgt");
        let mut tool = world.load(&["funclatency", &format!("{}:tgt_slow", tgt.display())]);
        assert!(tool.line().starts_with("Tracing "));

        let exit = world
            .start(&[tgt.as_os_str(), "20".as_ref(), "2000".as_ref()])
            .finish();
        assert_eq!(
            (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
            (0, "sum 720 right\n", "")
        );

        let tool = tool.interrupt();
        let mut sum = 0;
        for line in tool.stdout.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [low, "->", _, ":", count, ..] = words[..] {
                let (low, count): (u64, u64) =
                    (low.parse().expect("ns"), count.parse().expect("a count"));
                assert!(
                    low >= 1_048_576 || count == 0,
                    "tgt_slow cannot be so fast: {line}"
                );
                sum += count;
            }
        }
        assert_eq!((tool.code, sum), (0, 20), "{}", tool.stdout);
    });
}

/// Runs a bpftrace script until it waits for events.
fn bpftrace(world: &World, script: &str) -> Program {
    let tool = world.load(&["bpftrace", "-e", script]);
    tool.wait_idle();
    tool
}

#[test]
fn bpftrace_counts_and_prints_arguments() {
    both(|world| {
        let tgt = world.fixture("tgt");
        let probe = format!("uprobe:{}:tgt_add", tgt.display());
        let script = format!(
            r#"{probe} {{ @[comm] = count(); printf("%d %s %d\n", arg0, str(arg1), arg2); }}"#
        );
        let mut tool = bpftrace(world, &script);
        let exit = world.start(&[tgt.as_os_str(), "3".as_ref()]).finish();
        assert_eq!(
            (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
            (0, "sum 30 right\n", "")
        );
        // Ctrl-C drops what bpftrace has not shown yet, under the kernel, too.
        tool.lines_until(|line| line == "2 round-2 4");
        assert_eq!(
            tool.interrupt().stdout,
            "Attaching 1 probe...\n0 round-0 0\n1 round-1 2\n2 round-2 4\n\n\n@[tgt]: 3\n"
        );
    });
}

#[test]
fn bpftrace_counts_results() {
    both(|world| {
        let tgt = world.fixture("tgt");
        let script = format!(
            "uprobe:{0}:tgt_add {{ @calls = count(); @sum = sum(arg2); }} \
             uretprobe:{0}:tgt_add {{ @results[retval] = count(); @most = max(retval); }}",
            tgt.display()
        );
        let tool = bpftrace(world, &script);
        assert_eq!(
            world
                .start(&[tgt.as_os_str(), "3".as_ref()])
                .finish()
                .stdout,
            "sum 30 right\n"
        );
        let stdout = tool.interrupt().stdout;
        let mut lines: Vec<_> = stdout.lines().filter(|line| !line.is_empty()).collect();
        lines.sort_unstable();
        let expected = [
            "@calls: 3",
            "@most: 13",
            "@results[10]: 1",
            "@results[13]: 1",
            "@results[7]: 1",
            "@sum: 6",
            "Attaching 2 probes...",
        ];
        assert_eq!(lines, expected);
    });
}

#[test]
fn bpftrace_begins_ticks_and_ends() {
    both(|world| {
        let script = r#"BEGIN { printf("begin\n"); }
            interval:s:1 { @ticks++; printf("tick %d\n", @ticks); if (@ticks == 3) { exit(); } }
            END { printf("end\n"); }"#;
        let exit = world.load(&["bpftrace", "-e", script]).finish();
        assert_eq!(exit.code, 0, "{exit:?}");
        assert_eq!(
            exit.stdout,
            "Attaching 3 probes...\nbegin\ntick 1\ntick 2\ntick 3\nend\n\n\n@ticks: 3\n"
        );
    });
}

#[test]
fn bpftrace_shows_stacks() {
    both(|world| {
        let script = format!(
            "uprobe:{}:puppet_step {{ @[ustack(1)] = count(); }}",
            world.fixture("puppet").display()
        );
        let tool = bpftrace(world, &script);
        let mut puppet = world.puppet();
        let address = puppet.ask("where");
        assert_eq!(puppet.ask("call 8"), "ok");
        let stdout = tool.interrupt().stdout;
        // bpftrace resolves the address or not; it must be the right one.
        let stdout = stdout.replace("puppet_step+0", &address);
        assert_eq!(
            stdout,
            format!("Attaching 1 probe...\n\n\n@[\n    {address}\n]: 8\n"),
            "{:?}",
            world.mode()
        );
        assert!(puppet.runs());
    });
}
