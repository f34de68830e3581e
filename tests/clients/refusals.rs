//! What an ordinary user is told whose tool needs the kernel: which program, put
//! on what, and what it would take.

use bpftime_tests::{Program, World};

/// A tool's command line, and what of its stderr (or stdout) says why not.
const REFUSED: [(&[&str], &str); 8] = [
    (
        &["tcpconnect"],
        "only the kernel hosts a kprobe at tcp_v4_connect, ",
    ),
    (
        &["filelife"],
        "only the kernel hosts a kprobe at vfs_create, ",
    ),
    (
        &["biolatency", "1", "1"],
        "program \"block_rq_issue\": only the kernel hosts raw tracepoint block_rq_issue, ",
    ),
    (
        &["runqlat", "1", "1"],
        "program \"handle_sched_wa\": only the kernel hosts raw tracepoint sched_wakeup, ",
    ),
    (
        &["cachestat", "1", "1"],
        "program \"add_to_page_cac\": only the kernel hosts tracing programs, ",
    ),
    (
        &["sigsnoop"],
        "only the kernel hosts tracepoint signal:signal_generate, ",
    ),
    (
        &["bpftrace", "-e", "kprobe:vfs_read { @ = count(); }"],
        "only the kernel hosts a kprobe at vfs_read, ",
    ),
    (
        &[
            "sh",
            "-c",
            "cat /sys/kernel/tracing/events/sched/sched_switch/id",
        ],
        "only the kernel hosts tracepoint sched:sched_switch, ",
    ),
];

#[test]
fn tools_say_what_only_the_kernel_hosts() {
    let world = World::new();
    for (words, why) in REFUSED {
        let exit = Program::on_pipes(world.tool(words)).finish();
        assert_ne!(exit.code, 0, "{words:?}: {exit:?}");
        let line = exit.stderr.lines().find(|line| line.contains(why));
        let line = line.unwrap_or_else(|| panic!("{words:?}: {exit:?}"));
        let what = "which takes CAP_BPF and CAP_PERFMON, as root has";
        assert!(line.ends_with(what), "{words:?}: {line}");
    }
}

/// Programs and maps that bpftool finds as an ordinary user.
#[test]
fn bpftool_finds_what_user_space_hosts() {
    let world = World::new();
    let exit = Program::on_pipes(world.tool(&["bpftool", "feature", "probe"])).finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{exit:?}");
    let found = |kind: &str| -> Vec<&str> {
        let rest = |line| {
            str::strip_prefix(line, kind).and_then(|rest| rest.strip_suffix(" is available"))
        };
        exit.stdout.lines().filter_map(rest).collect()
    };
    // The first is for probes of helpers and the like, and is never put anywhere.
    let programs = [
        "socket_filter",
        "kprobe",
        "tracepoint",
        "perf_event",
        "raw_tracepoint",
    ];
    assert_eq!(found("eBPF program_type "), programs);
    let maps = [
        "hash",
        "array",
        "prog_array",
        "perf_event_array",
        "percpu_hash",
        "percpu_array",
        "stack_trace",
        "cgroup_array",
        "lru_hash",
        "lru_percpu_hash",
        "lpm_trie",
        "array_of_maps",
        "hash_of_maps",
        "queue",
        "stack",
        "ringbuf",
        "task_storage",
        "bloom_filter",
        "user_ringbuf",
    ];
    assert_eq!(found("eBPF map_type "), maps);
    assert!(
        exit.stdout.contains("\nbpf() syscall is available\n"),
        "{exit:?}"
    );
}
