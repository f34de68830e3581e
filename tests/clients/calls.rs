//! bcc's tools on system calls: most have kprobes at the kernel's functions
//! for them.

use bpftime_tests::World;

use crate::table::{Row, behind};

#[test]
fn execsnoop_shows_arguments_and_parents() {
    Row {
        tool: &["execsnoop-bpfcc", "-n", "true"],
        fixtures: &[],
        // The tool reads one CPU's records after the other's.
        work: &[
            "taskset",
            "-c",
            "0",
            "sh",
            "-c",
            "/bin/true marked-1; /bin/true marked-2 'two words'; :",
        ],
        lines: 2,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let has_parent = || {
                words
                    .get(2)
                    .is_some_and(|ppid| ppid.parse::<u32>().is_ok_and(|pid| pid > 1))
            };
            (line.contains("marked") && has_parent()).then(|| behind(line, 3))
        },
        rows: &["0 /bin/true marked-1", "0 /bin/true marked-2 two words"],
    }
    .check_ours();
}

#[test]
fn killsnoop_shows_signals_and_results() {
    Row {
        tool: &["killsnoop-bpfcc"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "kill -0 $$; kill -9 4194303 2>/dev/null; kill -0 $$; :",
        ],
        lines: 3,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.get(2) == Some(&"sh")).then(|| format!("{} {}", words[3], words[5]))
        },
        rows: &["0 0", "0 0", "9 -3"],
    }
    .check_ours();
}

#[test]
fn opensnoop_shows_paths_and_results() {
    Row {
        tool: &["opensnoop-bpfcc", "-n", "cat"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "cat /etc/hostname /nonexistent/file 2>/dev/null; :",
        ],
        lines: 2,
        row: |line| {
            let is_one = line.ends_with(" /etc/hostname") || line.ends_with(" /nonexistent/file");
            is_one.then(|| behind(line, 3))
        },
        rows: &["0 /etc/hostname", "2 /nonexistent/file"],
    }
    .check_ours();
}

/// It takes the function's argument for the path, which on kernels since 4.17
/// is the address of registers: so there is no path to compare.
#[test]
fn statsnoop_shows_results() {
    Row {
        tool: &["statsnoop-bpfcc"],
        fixtures: &[],
        work: &[
            "sh",
            "-c",
            "stat -f -c %T /etc /nonexistent/file >/dev/null 2>&1; :",
        ],
        lines: 2,
        row: |line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words.get(1) == Some(&"stat")).then(|| format!("{} {}", words[2], words[3]))
        },
        rows: &["-1 2", "0 0"],
    }
    .check_ours();
}

#[test]
fn tplist_lists_tracepoints_and_their_fields() {
    Row {
        tool: &["tplist-bpfcc", "-v", "syscalls:sys_e*_getpriority"],
        fixtures: &[],
        work: &[],
        lines: 7,
        row: |line| Some(behind(line, 0)).filter(|row| !row.is_empty()),
        rows: &[
            "int __syscall_nr;",
            "int __syscall_nr;",
            "int which;",
            "int who;",
            "long ret;",
            "syscalls:sys_enter_getpriority",
            "syscalls:sys_exit_getpriority",
        ],
    }
    .check();
}

#[test]
fn bpftrace_has_kprobes_at_calls() {
    let script = "kprobe:__x64_sys_kill { @signals[((struct pt_regs *)arg0)->si] = count(); } \
                  kretprobe:__x64_sys_kill { @results[retval] = count(); }";
    let world = World::new();
    let tool = world.load(&["bpftrace", "-e", script]);
    tool.wait_idle();
    let work = "kill -0 $$; kill -9 4194303 2>/dev/null; kill -0 $$; :";
    assert_eq!(world.start(&["sh", "-c", work]).finish().code, 0);
    let exit = tool.interrupt();
    let is_row = |line: &&str| line.starts_with('@');
    let mut rows: Vec<&str> = exit.stdout.lines().filter(is_row).collect();
    rows.sort_unstable();
    let expected = [
        "@results[-3]: 1",
        "@results[0]: 2",
        "@signals[0]: 2",
        "@signals[9]: 1",
    ];
    assert_eq!(rows, expected, "{exit:?}");
}
