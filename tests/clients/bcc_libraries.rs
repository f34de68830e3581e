//! bcc's tools for functions of libraries and for languages with static probes:
//! `sslsniff`, `threadsnoop`, `memleak`, `tplist`, `uflow`, `ugc`.

use bpftime_tests::{Program, World};

use crate::table::{Row, behind, both, expand, on_process, on_rounds, tool_command};

/// Writes a script into the user's home.
fn script(world: &World, name: &str, text: &str) {
    std::fs::write(world.home().join(name), text).expect("a script in the user's home");
}

#[test]
fn sslsniff_shows_both_sides_in_the_clear() {
    both(|world| {
        script(world, "sniffed.sh", include_str!("scripts/sniffed.sh"));
        let words = expand(world, &["sslsniff-bpfcc", "-c", "tlspeer"]);
        let mut tool = Program::on_terminal(tool_command(world, &words));
        tool.lines_until(|line| line.starts_with("FUNC"));
        tool.wait_idle();
        let work = expand(world, &["sh", "{home}/sniffed.sh", "{home}"]);
        let work = world.start(&work).finish();
        assert_eq!(work.code, 0, "{work:?}");
        // The tool reads one CPU's records after the other's.
        let mut calls = [(); 2].map(|()| {
            let lines = tool.lines_until(|line| line.starts_with("----- END DATA"));
            let row = lines.iter().find(|line| line.contains("tlspeer"));
            let row = row.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
            let words: Vec<&str> = row.iter().flat_map(|row| row.split(' ')).collect();
            let text = lines.iter().find(|line| *line == "sniffed words");
            assert!(text.is_some() && words.len() == 5, "{lines:?}");
            format!("{} {}", words[0], words[4])
        });
        calls.sort();
        assert_eq!(
            calls,
            ["READ/RECV 14", "WRITE/SEND 14"],
            "{:?}",
            world.mode()
        );
        tool.kill();
    });
}

/// The agent's own threads, which a forked child starts, are none of the program's.
#[test]
fn threadsnoop_shows_threads_and_no_other() {
    Row {
        tool: &["threadsnoop-bpfcc"],
        fixtures: &["calls", "libplug.so"],
        work: &[
            "sh",
            "-c",
            "(:); cp {home}/calls {home}/spins; {home}/spins threads {home}/libplug.so >/dev/null",
        ],
        lines: 9,
        // What has ended has no names of functions.
        row: |line| {
            let by = line.split_whitespace().nth(2)?;
            ["b'spins'", "b'sh'"].contains(&by).then(|| by.to_owned())
        },
        rows: &["b'spins'"; 9],
    }
    .check();
}

#[test]
fn memleak_lists_allocations_by_their_size() {
    let sizes = ["-z", "500", "-Z", "2000"];
    let tool = [
        &["memleak-bpfcc", "-p", "{pid}", "-a", "-o", "0"],
        &sizes[..],
        &["1"],
    ]
    .concat();
    on_rounds("50", &tool, "Top 10", |world, mut tool| {
        let is_block = |line: &str| line.contains("Top 10");
        let block = (0..40).find_map(|_| {
            let block = tool.lines_until(is_block);
            let listed = block.iter().filter(|line| line.contains("addr = "));
            let sizes: Vec<&str> = listed.filter_map(|line| line.split(' ').nth(5)).collect();
            (!sizes.is_empty()).then(|| sizes.join(" "))
        });
        let expected = "1000 1000 1000 1000 1000";
        assert_eq!(block.as_deref(), Some(expected), "{:?}", world.mode());
    });
}

#[test]
fn tplist_lists_static_probes_and_their_arguments() {
    Row {
        tool: &["tplist-bpfcc", "-vv", "-l", "{home}/rounds"],
        fixtures: &["rounds"],
        work: &[],
        lines: 6,
        row: |line| {
            let row = behind(line, 0);
            let shown = row.split(" @ ").next().unwrap_or_default();
            (!row.starts_with("location")).then(|| shown.to_owned())
        },
        rows: &[
            "argument #1 4 signed bytes",
            "argument #1 4 signed bytes",
            "argument #2 8 unsigned bytes",
            "argument #2 8 unsigned bytes",
            "rounds:plain [sema 0x0]",
            "rounds:watched [sema 0x4068]",
        ],
    }
    .check();
}

/// What a tool for languages shows of a Python program.
fn on_python(tool: &[&str], ready: &str, is_row: fn(&str) -> bool, rows: usize) {
    let home = World::new();
    script(&home, "methods.py", include_str!("scripts/methods.py"));
    let script = home.home().join("methods.py").display().to_string();
    // The interpreter of the distribution, which has probes.
    on_process(
        &["/usr/bin/python3", &script],
        tool,
        ready,
        |world, mut tool| {
            let shown = (0..rows).map(|_| tool.lines_until(is_row));
            assert_eq!(shown.count(), rows);
            // They do not hear an interrupt while they print.
            let rest = tool.kill().stdout;
            let all = rest.lines().filter(|line| is_row(line)).count();
            assert_eq!(all, rows, "{:?} {rest}", world.mode());
        },
    );
}

#[test]
fn uflow_shows_returns_of_python_functions() {
    let tool = ["uflow", "-l", "python", "-M", "caller", "{pid}"];
    on_python(
        &tool,
        "METHOD",
        |line| line.contains("<- ") && line.contains(".caller"),
        7,
    );
}

#[test]
fn ugc_shows_collections_of_garbage() {
    let tool = ["ugc", "-l", "python", "{pid}"];
    on_python(&tool, "START", |line| line.trim_end().ends_with("None"), 3);
}
