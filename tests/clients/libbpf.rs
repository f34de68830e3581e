//! libbpf-tools on system calls, with the options that change what they
//! attach or show. Paths, names and pids are of each test alone, for in the
//! kernel a tool sees the workloads of all.

use std::sync::OnceLock;

use bpftime_tests::World;

use crate::table::{Row, behind, both};
use crate::watched::{shell, wait_hooked};

/// A process id above all that exist.
fn is_no_pid(word: &str) -> bool {
    word.starts_with("41943")
}

/// Who runs the workloads.
fn ordinary() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| World::new().uid())
}

#[test]
fn opensnoop_shows_all_columns() {
    Row {
        tool: &["opensnoop", "-T", "-U", "-e", "-n", "cat"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "cat /usr/bin/true /nonexistent/columns >/dev/null 2>&1; :",
        ],
        lines: 2,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [time, uid, pid, comm, _fd, errno, flags, path] = words[..] else {
                return None;
            };
            let is_time = time.split(':').all(|part| part.parse::<u8>().is_ok());
            let is_user = uid.parse() == Ok(ordinary());
            let is_row = path == "/usr/bin/true" || path == "/nonexistent/columns";
            (is_row && is_time && is_user && pid.parse::<u32>().is_ok())
                .then(|| format!("{comm} {errno} {flags} {path}"))
        },
        rows: &[
            "cat 0 00000000 /usr/bin/true",
            "cat 2 00000000 /nonexistent/columns",
        ],
    }
    .check();
}

#[test]
fn opensnoop_shows_failures_only() {
    Row {
        tool: &["opensnoop", "-x"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "cat /usr/bin/true /nonexistent/failures /etc/shadow >/dev/null 2>&1; :",
        ],
        lines: 2,
        row: |line| {
            let of_cat = line.contains(" cat ");
            let is_row = ["/usr/bin/true", "/nonexistent/failures", "/etc/shadow"];
            (of_cat && is_row.iter().any(|path| line.ends_with(path))).then(|| behind(line, 2))
        },
        rows: &["-1 13 /etc/shadow", "-1 2 /nonexistent/failures"],
    }
    .check();
}

#[test]
fn execsnoop_quotes_arguments() {
    Row {
        tool: &["execsnoop", "-T", "-U", "-q", "-n", "true"],
        fixtures: &[],
        work: &["sh", "-c", "/bin/true quoted-1 'two words' 'q\"uote'; :"],
        lines: 1,
        row: |line| line.contains("quoted-1").then(|| behind(line, 5)),
        rows: &[r#"0 "/bin/true" "quoted-1" "two words" "q\"uote""#],
    }
    .check();
}

#[test]
fn execsnoop_shows_one_users() {
    let uid = ordinary().to_string();
    Row {
        tool: &["execsnoop", "-t", "-u", &uid, "-n", "true"],
        fixtures: &[],
        work: &["sh", "-c", "/bin/true users-1; :"],
        lines: 1,
        row: |line| line.contains("users-1").then(|| behind(line, 4)),
        rows: &["0 /bin/true users-1"],
    }
    .check();
}

#[test]
fn execsnoop_shows_failures() {
    Row {
        tool: &["execsnoop", "-x"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "/nonexistent/tool failing-1 2>/dev/null; /etc/passwd failing-2 2>/dev/null; /bin/true failing-3; :",
        ],
        lines: 3,
        row: |line| {
            let is_row = line.contains(" failing-") && !line.contains(" -c ");
            is_row.then(|| behind(line, 3))
        },
        rows: &[
            "-13 /etc/passwd failing-2",
            "-2 /nonexistent/tool failing-1",
            "0 /bin/true failing-3",
        ],
    }
    .check();
}

#[test]
fn execsnoop_counts_arguments() {
    Row {
        tool: &["execsnoop", "--max-args", "2"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "/bin/true counted-1 b c; /bin/true counted-2; :",
        ],
        lines: 2,
        row: |line| {
            let is_row = line.contains(" counted-") && !line.contains(" -c ");
            is_row.then(|| behind(line, 3))
        },
        rows: &["0 /bin/true counted-1 ...", "0 /bin/true counted-2"],
    }
    .check();
}

#[test]
fn sigsnoop_names_failed_signals() {
    Row {
        tool: &["sigsnoop", "-k", "-n", "-x"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "kill -0 $$; kill -9 4194301 2>/dev/null; kill -HUP 4194301 2>/dev/null; :",
        ],
        lines: 2,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.get(4) == Some(&"4194301")).then(|| behind(line, 3))
        },
        rows: &["SIGHUP 4194301 -3", "SIGKILL 4194301 -3"],
    }
    .check();
}

#[test]
fn killsnoop_shows_one_signal() {
    Row {
        tool: &["killsnoop", "-s", "12"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "kill -10 4194302 2>/dev/null; kill -12 4194302 2>/dev/null; kill -12 4194300 2>/dev/null; :",
        ],
        lines: 2,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let of_shell = words.get(2) == Some(&"sh");
            (of_shell && is_no_pid(words[4])).then(|| behind(line, 3))
        },
        rows: &["12 4194300 -3", "12 4194302 -3"],
    }
    .check();
}

#[test]
fn mountsnoop_follows_into_namespaces() {
    Row {
        tool: &["mountsnoop"],
        fixtures: &[],
        work: &[
            "unshare",
            "-Urm",
            "sh",
            "-c",
            "mount -t tmpfs -o size=64k mountsnoop-1 /mnt && umount /mnt",
        ],
        lines: 2,
        row: |line| {
            let call = line
                .find("mount(")
                .map(|at| at - usize::from(line.contains(" umount(")));
            let is_row = line.contains("mountsnoop-1") || line.contains("umount(\"/mnt\"");
            call.filter(|_| is_row).map(|at| line[at..].to_owned())
        },
        rows: &[
            r#"mount("mountsnoop-1", "/mnt", "tmpfs", 0x0, "size=64k") = 0"#,
            r#"umount("/mnt", 0x0) = 0"#,
        ],
    }
    .check();
}

/// What `syscount` with some options shows of a shell that makes known calls.
fn check_syscount(options: &[&str], expected: &[&str]) {
    const CALLS: &str =
        "kill -0 4194299 2>/dev/null; cd /usr; umask 22; cd /nonexistent/sys 2>/dev/null";
    both(|world| {
        let mut shell = shell(world);
        let pid = shell.pid().to_string();
        let words = [&["syscount", "-p", &pid, "-T", "50"], options].concat();
        let mut tool = world.load(&words);
        tool.lines_until(|line| line.starts_with("Tracing"));
        tool.wait_asleep();
        wait_hooked(world, &pid);
        for _ in 0..5 {
            shell.tell(CALLS);
        }
        assert_eq!(shell.ask("echo done"), "done");
        let exit = tool.interrupt();
        assert_eq!(exit.code, 0, "{exit:?}");
        shell.tell("exit");
        assert_eq!(shell.finish().code, 0);
        let row = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_row = matches!(words.first(), Some(&("kill" | "chdir" | "umask")));
            let is_timed = |time: &str| time.parse::<f64>().is_ok_and(|time| time > 0.0);
            assert_eq!(
                is_row && options.contains(&"-L"),
                is_row && words.get(2).is_some_and(|t| is_timed(t)),
                "{line}"
            );
            is_row.then(|| words[..2].join(" "))
        };
        let mut rows: Vec<String> = exit.stdout.lines().filter_map(row).collect();
        rows.sort();
        assert_eq!(rows, expected, "{exit:?}");
    });
}

#[test]
fn syscount_measures_calls() {
    check_syscount(&["-L"], &["chdir 10", "kill 5", "umask 15"]);
}

#[test]
fn syscount_measures_failures() {
    check_syscount(&["-L", "-x"], &["chdir 5", "kill 5"]);
}

#[test]
fn syscount_counts_failures() {
    check_syscount(&["-x"], &["chdir 5", "kill 5"]);
}

#[test]
fn syscount_counts_one_error() {
    check_syscount(&["-e", "ESRCH"], &["kill 5"]);
}

#[test]
fn clocks_and_hashes_leave_vector_registers_alone() {
    const ROUNDS: u32 = 5_000;
    both(|world| {
        let mut vectors = world.start(&[world.fixture("vectors")]);
        let pid = vectors.pid().to_string();
        assert_eq!(vectors.line(), format!("pid {pid}"));
        let tools = [
            (vec!["syscount", "-L", "-p", &pid, "-T", "50"], "getppid "),
            (vec!["funclatency", "-p", &pid, ":probed"], ""),
        ];
        for (words, name) in tools {
            let mut tool = world.load(&words);
            tool.lines_until(|line| line.starts_with("Tracing"));
            tool.wait_asleep();
            wait_hooked(world, &pid);
            assert_eq!(vectors.ask(&ROUNDS.to_string()), "0", "{words:?}");
            let exit = tool.interrupt();
            assert_eq!(exit.code, 0, "{exit:?}");
            // Rows are a name and a count, or a range, a count and a bar.
            let count = |line: &str| -> Option<u32> {
                let rest = line.strip_prefix(name)?;
                let rest = rest.split_once(" : ").map_or(rest, |(_, bar)| bar);
                rest.split_whitespace().next()?.parse().ok()
            };
            let counted: u32 = exit.stdout.lines().filter_map(count).sum();
            assert_eq!(counted, ROUNDS, "{exit:?}");
        }
        drop(vectors.finish());
    });
}
