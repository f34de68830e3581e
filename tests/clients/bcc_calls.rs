//! bcc's tools on system calls, with their options: by tracepoints beside the
//! kernel, by kprobes at the calls' functions under bpftime only, for this
//! kernel may have none.

use crate::table::{Row, behind, on_process};

#[test]
fn trace_reads_fields_of_tracepoints() {
    let probe = "t:syscalls:sys_enter_kill (args->pid == 4194299) \"%d\", args->sig";
    let work = "for s in 9 15; do kill -$s 4194299 2>/dev/null; done; :";
    Row {
        tool: &["trace-bpfcc", probe],
        fixtures: &[],
        work: &["sh", "-c", work],
        lines: 2,
        row: |line| line.contains("sys_enter_kill").then(|| behind(line, 2)),
        rows: &["sh sys_enter_kill 15", "sh sys_enter_kill 9"],
    }
    .check();
}

/// The calls of a process that sleeps twenty times, as these tools count them.
fn counted_by(tool: &[&str]) {
    let target = ["{home}/rounds", "20", "1000", "wait"];
    on_process(&target, tool, "Tracing", |world, tool| {
        let shown = tool.interrupt().stdout;
        let rows: Vec<String> = shown
            .lines()
            .map(|line| behind(line, 0))
            .filter(|row| row.starts_with("clock_nanosleep") || row.starts_with("write"))
            .collect();
        let mode = world.mode();
        assert!(
            rows.contains(&"clock_nanosleep 20".to_owned()),
            "{mode:?} {shown}"
        );
        assert!(rows.contains(&"write 1".to_owned()), "{mode:?} {shown}");
    });
}

#[test]
fn syscount_counts_calls_of_a_process() {
    counted_by(&["syscount-bpfcc", "-p", "{pid}"]);
}

#[test]
fn ucalls_counts_calls_of_any_language() {
    counted_by(&["ucalls", "-l", "none", "-S", "{pid}"]);
}

#[test]
fn syscount_sums_up_times() {
    let target = ["{home}/rounds", "20", "1000", "wait"];
    let tool = ["syscount-bpfcc", "-L", "-m", "-p", "{pid}"];
    on_process(&target, &tool, "Tracing", |world, tool| {
        let shown = tool.interrupt().stdout;
        let mut rows = shown.lines().map(|line| behind(line, 0));
        let slept = rows.find_map(|row| row.strip_prefix("clock_nanosleep 20 ").map(str::to_owned));
        let slept: f64 = slept.and_then(|time| time.parse().ok()).unwrap_or(0.0);
        assert!(slept >= 20.0, "{:?} {shown}", world.mode());
    });
}

#[test]
fn funccount_finds_calls_by_a_pattern() {
    Row {
        tool: &["funccount-bpfcc", "*sys_kill"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "kill -0 $$; kill -9 4194303 2>/dev/null; kill -0 $$; :",
        ],
        lines: 0,
        row: |line| line.contains("sys_kill  ").then(|| behind(line, 0)),
        rows: &["__x64_sys_kill 3"],
    }
    .check_ours();
}

#[test]
fn killsnoop_filters_by_signal_and_failure() {
    Row {
        tool: &["killsnoop-bpfcc", "-x", "-s", "15"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "for s in 0 9 15; do kill -$s 4194303 2>/dev/null; done; trap : TERM; kill -15 $$; :",
        ],
        lines: 1,
        row: |line| line.contains("4194303").then(|| behind(line, 2)),
        rows: &["sh 15 4194303 -3"],
    }
    .check_ours();
}

#[test]
fn execsnoop_quotes_arguments_and_shows_failures() {
    Row {
        tool: &["execsnoop-bpfcc", "-x", "-q", "--max-args", "3"],
        fixtures: &[],
        work: &[
            "taskset",
            "-c",
            "0",
            "sh",
            "-c",
            "/bin/true marked 'two words' beyond; /nonexistent/marked 2>/dev/null; :",
        ],
        lines: 2,
        row: |line| {
            let is_one = line.contains("\"/bin/true\"") || line.contains("\"/nonexistent/marked\"");
            (is_one && !line.contains("\"-c\"")).then(|| behind(line, 3))
        },
        rows: &[
            "-2 \"/nonexistent/marked\"",
            "0 \"/bin/true\" \"marked\" \"two words\" \"...\"",
        ],
    }
    .check_ours();
}

#[test]
fn opensnoop_filters_by_flags() {
    Row {
        tool: &[
            "opensnoop-bpfcc",
            "-e",
            "-U",
            "-f",
            "O_WRONLY",
            "-n",
            "touch",
        ],
        fixtures: &[],
        work: &["touch", "{home}/marked"],
        lines: 1,
        row: |line| {
            line.ends_with("/marked").then(|| {
                let words: Vec<&str> = line.split_whitespace().collect();
                format!("{} {}", words[2], words[4..6].join(" "))
            })
        },
        rows: &["touch 0 00004501"],
    }
    .check_ours();
}

#[test]
fn shmsnoop_shows_shared_memory() {
    Row {
        tool: &["shmsnoop-bpfcc"],
        fixtures: &[],
        work: &["sh", "-c", "ipcrm -m $(ipcmk -M 12345 | tr -dc 0-9)"],
        lines: 2,
        row: |line| {
            let (of, arguments) = (behind(line, 1), line.split_once(", ")?.1);
            let call = of.split(' ').take(2).collect::<Vec<_>>().join(" ");
            Some(format!("{call} {arguments}"))
        },
        rows: &[
            "ipcmk SHMGET size: 12345, shmflg: 0x3a4 (IPC_CREAT|0644)",
            "ipcrm SHMCTL cmd: 0, buf: 0x0",
        ],
    }
    .check_ours();
}

/// The programs run in namespaces of their own.
#[test]
fn mountsnoop_shows_mounts_in_namespaces() {
    Row {
        tool: &["mountsnoop-bpfcc"],
        fixtures: &[],
        work: &[
            "unshare",
            "-Urm",
            "sh",
            "-c",
            "mount -t tmpfs none /mnt && umount /mnt",
        ],
        lines: 3,
        row: |line| {
            line.contains(") = ").then(|| {
                format!(
                    "{} {}",
                    behind(line, 4),
                    line.split(' ').next().unwrap_or_default()
                )
            })
        },
        rows: &[
            "mount(\"none\", \"/\", \"\", MS_REC|MS_PRIVATE, \"\") = 0 unshare",
            "mount(\"none\", \"/mnt\", \"tmpfs\", 0x0, \"\") = 0 mount",
            "umount(\"/mnt\", 0x0) = 0 umount",
        ],
    }
    .check_ours();
}

#[test]
fn syncsnoop_shows_calls_without_arguments() {
    Row {
        tool: &["syncsnoop-bpfcc"],
        fixtures: &[],
        work: &["sh", "-c", "sync; sync"],
        lines: 2,
        row: |line| line.contains("sync()").then(|| behind(line, 1)),
        rows: &["sync()"; 2],
    }
    .check_ours();
}
