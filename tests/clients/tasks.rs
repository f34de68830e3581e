//! Tools on what tasks do: executed programs, forks, ends. Names tell the
//! programs of these tests from all others, whose ends the kernel shows, too.

use bpftime_tests::World;

use crate::table::{Row, both, expand};

/// What a name stands for in this test's process; other tests have others.
fn name(of: &str) -> String {
    format!("{of}{}", std::process::id())
}

/// `text` with the names of this test's programs in the place of `LIFE` and `QUICK`.
fn named(text: &str) -> String {
    text.replace("LIFE", &name("life"))
        .replace("QUICK", &name("quick"))
}

/// `text` with `life` and `quick` in the place of those names.
fn plain(text: &str) -> String {
    text.replace(&name("life"), "life")
        .replace(&name("quick"), "quick")
}

/// Copies of programs under names of their own.
fn copy_programs(world: &World) {
    for (program, of) in [("/bin/dash", "life"), ("/bin/true", "quick")] {
        let copied = std::fs::copy(program, world.home().join(name(of)));
        assert!(copied.is_ok(), "{program}: {copied:?}");
    }
}

#[test]
fn bpftrace_sees_programs_begin_fork_and_end() {
    let script = "\
        tracepoint:sched:sched_process_exec /comm == \"LIFE\" || comm == \"QUICK\"/ \
            { $name = str(args->filename); printf(\"exec %s %s %d %d\\n\", comm, $name, \
              (uint64)args->pid == tid, (uint64)args->old_pid == pid) } \
        tracepoint:sched:sched_process_fork /comm == \"LIFE\"/ \
            { printf(\"fork %s %s %d\\n\", str(args->parent_comm), str(args->child_comm), \
              (uint64)args->parent_pid == pid) } \
        tracepoint:sched:sched_process_exit /comm == \"LIFE\" || comm == \"QUICK\"/ \
            { printf(\"exit %s %d prio %d dead %d code %d\\n\", args->comm, \
              (uint64)args->pid == tid, args->prio, args->group_dead, curtask->exit_code >> 8) }";
    both(|world| {
        copy_programs(world);
        let mut tool = world.load(&["bpftrace", "-e", &named(script)]);
        assert_eq!(tool.line(), "Attaching 3 probes...");
        tool.wait_idle();
        let life = named("{home}/LIFE");
        let deeds = named("/bin/true; {home}/QUICK; (exit 7); exit 3");
        let words = ["nice", "-n", "19", &life, "-c", &deeds];
        let work = world.start(&expand(world, &words));
        assert_eq!(work.finish().code, 3);
        let home = world.home().display().to_string();
        let mut rows: Vec<String> = tool
            .interrupt()
            .stdout
            .lines()
            .filter(|line| line.starts_with('e') || line.starts_with('f'))
            .map(|line| plain(&line.replace(&home, "HOME")))
            .collect();
        rows.sort();
        let expected = [
            "exec life HOME/life 1 1",
            "exec quick HOME/quick 1 1",
            "exit life 1 prio 139 dead 1 code 3",
            "exit life 1 prio 139 dead 1 code 7",
            "exit quick 1 prio 139 dead 1 code 0",
            "fork life life 1",
            "fork life life 1",
            "fork life life 1",
        ];
        assert_eq!(rows, expected, "{:?}", world.mode());
    });
}

/// The names and ends of those programs, in a tool's first and last columns.
fn end(line: &str) -> Option<String> {
    let line = plain(line);
    let name = line.split_whitespace().next()?;
    let code = line.split_whitespace().last()?;
    matches!(name, "life" | "quick").then(|| format!("{name} {code}"))
}

fn ends(tool: &str) {
    both(|world| {
        copy_programs(world);
        let work = named("{home}/LIFE -c '{home}/QUICK; (exit 7); exit 3' || :");
        Row {
            tool: &[tool],
            fixtures: &[],
            work: &["sh", "-c", &work],
            lines: 3,
            row: end,
            rows: &["life 3", "life 7", "quick 0"],
        }
        .check_in(world);
    });
}

#[test]
fn exitsnoop_shows_how_programs_end() {
    ends("exitsnoop");
}

#[test]
fn exitsnoop_of_bcc_shows_how_programs_end() {
    ends("exitsnoop-bpfcc");
}
