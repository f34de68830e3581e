//! Which probes bpftrace finds, lists and puts.

use super::{lines, told, traced};
use crate::table::both;

#[test]
fn bpftrace_puts_tracepoints_by_patterns() {
    let script = "tracepoint:syscalls:sys_*_kill /comm == \"patterns\"/ { @[probe] = count(); } \
                  tracepoint:syscalls:sys_enter_getpp* /comm == \"patterns\"/ { @ask = count(); }";
    both(|world| {
        // The kernel shows other tests' shells, too.
        let shell = world.home().join("patterns");
        std::fs::copy("/bin/sh", shell).expect("a shell of our own");
        let work = ["{home}/patterns", "-c", "kill -0 $$; kill -0 $$; :"];
        let exit = traced(world, &["-e", script], &work);
        let mut shown = lines(world, &exit.stdout);
        shown.retain(|line| line.starts_with('@'));
        shown.sort();
        let expected = [
            "@[tracepoint:syscalls:sys_enter_kill]: 2",
            "@[tracepoint:syscalls:sys_exit_kill]: 2",
            "@ask: 1",
        ];
        assert_eq!(shown, expected, "{:?}: {exit:?}", world.mode());
    });
}

#[test]
fn bpftrace_lists_probes() {
    both(|world| {
        world.fixture("rounds");
        let shown = |words: &[&str]| lines(world, &told(world, words).stdout);
        assert_eq!(
            shown(&["-l", "uprobe:{home}/rounds:rounds_a*"]),
            ["uprobe:~/rounds:rounds_add", "uprobe:~/rounds:rounds_alloc"]
        );
        assert_eq!(
            shown(&["-l", "usdt:{home}/rounds:*"]),
            ["usdt:~/rounds:rounds:plain", "usdt:~/rounds:rounds:watched"]
        );
        assert_eq!(
            shown(&["-lv", "tracepoint:syscalls:sys_e*_getpriority"]),
            [
                "tracepoint:syscalls:sys_enter_getpriority",
                "    int __syscall_nr",
                "    int which",
                "    int who",
                "tracepoint:syscalls:sys_exit_getpriority",
                "    int __syscall_nr",
                "    long ret",
            ]
        );
    });
}

#[test]
fn bpftrace_takes_types_from_the_systems_headers() {
    let script = "#include <sys/socket.h>\n#include <linux/in.h>\n\
                  BEGIN { printf(\"%d %d\\n\", AF_INET6, sizeof(struct sockaddr_in)); exit(); }";
    both(|world| {
        let exit = told(world, &["-e", script]);
        assert_eq!(
            lines(world, &exit.stdout),
            ["Attaching 1 probe...", "10 16"],
            "{exit:?}"
        );
    });
}
