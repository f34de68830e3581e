//! Programs that sample: what they say of a target's time agrees with the
//! kernel's own run and with perf(1), and the target does not notice.

use std::collections::BTreeMap;

use bpftime_tests::{Mode, Program, World};

use crate::table::{both, tool_command};

/// Samples that were taken, of so many that CPU time says.
fn expect_about(count: u64, expected: f64, mode: Mode, shown: &str) {
    // The kernel's own clock ticks by the wall: who shares a CPU is hit by chance.
    let tolerance = match mode {
        Mode::Bpftime => 0.2,
        Mode::Kernel => 0.4,
    };
    let off = (count as f64 - expected).abs();
    assert!(
        off <= expected * tolerance,
        "{count} for {expected} under {mode:?}:\n{shown}"
    );
}

/// bpftrace, which has attached all its probes.
fn bpftrace(world: &World, script: &str) -> Program {
    let mut tool = Program::on_terminal(world.tool(&["bpftrace", "-e", script]));
    tool.line();
    tool.wait_idle();
    tool
}

/// A copy of the program that computes, and its name, which no other test's has:
/// the kernel samples them all.
fn own_copy(world: &World, of: &str) -> (String, String) {
    let name = format!("{of}-{}", std::process::id());
    let path = world.home().join(&name);
    if !path.exists() {
        std::fs::copy(world.fixture("busy"), &path).expect("a copy");
    }
    (path.display().to_string(), name)
}

fn busy(world: &World, words: &[&str]) -> Program {
    let (path, _) = own_copy(world, "busy");
    world.start(&[&[path.as_str()], words].concat())
}

/// The counts of a map with this name that bpftrace shows, by key.
fn counts(shown: &str, map: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in shown.lines() {
        let Some((key, count)) = line.split_once("]: ") else {
            continue;
        };
        let key = key.strip_prefix(map).and_then(|key| key.strip_prefix('['));
        if let (Some(key), Ok(count)) = (key, count.trim().parse()) {
            found.insert(key.to_owned(), count);
        }
    }
    found
}

#[test]
fn bpftrace_profile_counts_cpu_time() {
    let story = |world: &World, samples: Mode| {
        let (_, name) = own_copy(world, "busy");
        let script = format!(
            r#"profile:hz:99 /comm == "{name}"/ {{ @hz[comm] = count(); }}
            profile:ms:5 /comm == "{name}"/ {{ @ms[comm] = count(); }}"#
        );
        let tool = bpftrace(world, &script);
        assert_eq!(busy(world, &["1.5"]).finish().stdout, "done\n");
        let shown = tool.interrupt().stdout;
        expect_about(counts(&shown, "@hz")[&name], 148.5, samples, &shown);
        // Also on the first CPU, where a period may be an interval's.
        expect_about(counts(&shown, "@ms")[&name], 300.0, samples, &shown);
    };
    both(|world| story(world, world.mode()));
    // The kernel hosts all events, also that on the first CPU.
    if let Some(root) = World::privileged() {
        story(&root, Mode::Kernel);
    }
}

#[test]
fn bpftrace_intervals_tick_while_nobody_runs() {
    let world = World::new();
    let script = r#"interval:ms:20 { @ticks[comm, pid] = count(); if (@n++ == 20) { exit(); } }"#;
    let tool = Program::on_terminal(world.tool(&["bpftrace", "-e", script]));
    let pid = tool.pid();
    let shown = tool.finish().stdout;
    assert_eq!(
        counts(&shown, "@ticks").values().sum::<u64>(),
        21,
        "{shown}"
    );
    let key = counts(&shown, "@ticks").into_keys().next();
    assert!(
        key.is_some_and(|key| key.ends_with(&format!(", {pid}"))),
        "{shown}"
    );
}

/// What is made by who is sampled is sampled.
#[test]
fn bpftrace_profile_follows_threads_children_and_programs() {
    both(|world| {
        let (_, name) = own_copy(world, "busy");
        let (other, other_name) = own_copy(world, "other");
        let script = format!(
            r#"profile:hz:199 /comm == "{name}" || comm == "{other_name}"/
            {{ @tids[comm, tid] = count(); @pids[comm, pid] = count(); }}"#
        );
        let tool = bpftrace(world, &script);
        for how in [
            &["0.5", "threads"][..],
            &["0.5", "fork"],
            &["0.5", "exec", &other],
        ] {
            assert_eq!(busy(world, how).finish().stdout, "done\n");
        }
        let shown = tool.interrupt().stdout;
        // One of two threads, then a process and its child, then one that
        // executes another program. What the agent does is no part of it.
        let much = |map, comm: &str| {
            let counts = counts(&shown, map).into_iter();
            let comm = format!("{comm},");
            let of_it = counts.filter(|(key, count)| key.starts_with(&comm) && *count > 40);
            of_it.map(|(_, count)| count).collect::<Vec<_>>()
        };
        assert_eq!(much("@tids", &name).len(), 6, "{shown}");
        assert_eq!(much("@tids", &other_name).len(), 1, "{shown}");
        let pids = much("@pids", &name);
        assert_eq!(pids.len(), 4, "{shown}");
        expect_about(pids.iter().sum(), 6.0 * 99.5, world.mode(), &shown);
        expect_about(much("@pids", &other_name)[0], 99.5, world.mode(), &shown);
    });
}

/// One stack that profile-bpfcc shows, the innermost frame first, and its count.
type Stacks = Vec<(Vec<String>, u64)>;

fn stacks(shown: &str) -> Stacks {
    let mut all = Stacks::new();
    let mut frames = Vec::new();
    for line in shown.lines().map(str::trim) {
        if line.starts_with("- ") {
            continue;
        }
        match line.parse() {
            Ok(count) => all.push((std::mem::take(&mut frames), count)),
            Err(_) if line.is_empty() || line.contains("...") => frames.clear(),
            Err(_) => frames.push(line.split('+').next().unwrap_or(line).to_owned()),
        }
    }
    all
}

/// How much of all samples, by innermost function.
fn shares(stacks: &Stacks) -> BTreeMap<String, f64> {
    let total: u64 = stacks.iter().map(|(_, count)| count).sum();
    let mut shares = BTreeMap::new();
    for (frames, count) in stacks {
        let leaf = frames.first().cloned().unwrap_or_default();
        *shares.entry(leaf).or_insert(0.0) += *count as f64 / total as f64;
    }
    shares
}

/// What perf(1) says of the same program, as an ordinary user.
fn shares_by_perf(world: &World) -> BTreeMap<String, f64> {
    let (data, busy) = (world.home().join("perf.data"), world.fixture("busy"));
    let file = data.display().to_string();
    let record = [
        "perf",
        "record",
        "-q",
        "-e",
        "cpu-clock:u",
        "-F",
        "399",
        "-o",
        &file,
    ];
    let program = busy.display().to_string();
    let recorded =
        Program::on_pipes(world.plain(&[&record[..], &[&program, "1"]].concat())).finish();
    assert_eq!(recorded.code, 0, "{recorded:?}");
    let report = [
        "perf",
        "report",
        "-q",
        "--stdio",
        "-F",
        "overhead,sym",
        "-i",
        &file,
    ];
    let shown = Program::on_pipes(world.plain(&report)).finish().stdout;
    let share = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let percent: f64 = words.first()?.strip_suffix('%')?.parse().ok()?;
        Some(((*words.last()?).to_owned(), percent / 100.0))
    };
    shown.lines().filter_map(share).collect()
}

#[test]
fn profile_agrees_with_perf_and_the_kernel() {
    let path = |leaf: &str| {
        [leaf, "both", "compute", "main"]
            .map(str::to_owned)
            .to_vec()
    };
    both(|world| {
        let mut target = busy(world, &["1", "wait"]);
        let pid = target.pid().to_string();
        let words = ["profile-bpfcc", "-U", "-F", "399", "-p", &pid];
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let mut tool = Program::on_terminal(tool_command(world, &words));
        let first = tool.line();
        assert!(first.starts_with("Sampling at 399 Hertz"), "{first}");
        target.tell("");
        assert_eq!(target.line(), "done");
        let shown = tool.interrupt().stdout;
        let stacks = stacks(&shown);
        expect_about(
            stacks.iter().map(|(_, count)| count).sum(),
            399.0,
            world.mode(),
            &shown,
        );
        let ours = shares(&stacks);
        let mut main_paths = BTreeMap::new();
        for (frames, count) in stacks {
            // Libc is built without frame pointers: the kernel's stacks end there.
            let to_main: Vec<String> = frames
                .into_iter()
                .take_while(|name| !name.starts_with("__libc"))
                .collect();
            *main_paths.entry(to_main).or_insert(0) += count;
        }
        main_paths.retain(|_, count| *count > 40);
        let main_paths: Vec<_> = main_paths.into_keys().collect();
        assert_eq!(main_paths, [path("cold"), path("hot")], "{shown}");
        let perf = shares_by_perf(world);
        for function in ["hot", "cold"] {
            let (ours, perf) = (ours[function], perf[function]);
            assert!(
                (ours - perf).abs() < 0.1,
                "{function}: {ours} and {perf}\n{shown}"
            );
        }
        assert!((ours["hot"] - 0.75).abs() < 0.1, "{ours:?}");
        target.hang_up();
        assert_eq!(target.finish().code, 0);
    });
}

/// A script of Python in the world's home.
fn script(world: &World, name: &str, text: &str) -> String {
    let path = world.home().join(name);
    std::fs::write(&path, text).expect("a script");
    path.display().to_string()
}

#[test]
fn bcc_samples_one_thread_by_its_task_clock() {
    both(|world| {
        let sample = script(world, "sample.py", include_str!("scripts/sample.py"));
        // No agent: the kernel lets users sample what is theirs.
        let path = world.fixture("busy").display().to_string();
        let mut target = Program::on_pipes(world.plain(&[&path, "0.5", "wait"]));
        let tid = target.pid().to_string();
        let words = ["python3", &sample, &tid].map(str::to_owned);
        let mut tool = Program::on_pipes(tool_command(world, &words));
        assert_eq!(tool.line(), "sampling");
        target.tell("");
        assert_eq!(target.line(), "done");
        tool.tell("");
        let shown = tool.finish().stdout;
        let rows: Vec<_> = shown
            .lines()
            .filter_map(|line| line.split_once(' '))
            .collect();
        assert_eq!(rows.len(), 1, "{shown}");
        assert_eq!(rows[0].0, tid);
        expect_about(
            rows[0].1.parse().expect("a count"),
            100.0,
            Mode::Bpftime,
            &shown,
        );
        target.hang_up();
        assert_eq!(target.finish().code, 0);
    });
}

#[test]
fn sampled_waits_are_not_interrupted() {
    let world = World::new();
    let script =
        r#"profile:hz:1999 /comm == "waits"/ { @n[comm] = count(); @[ustack(3)] = count(); }"#;
    let tool = bpftrace(&world, script);
    let path = world.fixture("waits").display().to_string();
    let waits = world.start(&[path.as_str(), "20"]).finish();
    assert_eq!(waits.stdout, "waits 280 interrupted 0\n");
    let shown = tool.interrupt().stdout;
    assert!(counts(&shown, "@n")["waits"] > 100, "{shown}");
}

#[test]
fn a_killed_profile_leaves_its_target_alone() {
    let world = World::new();
    let mut target = busy(&world, &["0.3", "wait"]);
    let tool = bpftrace(&world, "profile:hz:999 { @[ustack] = count(); }");
    let proc = format!("/proc/{}", target.pid());
    let has_events = || {
        let fds = std::fs::read_dir(format!("{proc}/fd")).expect("its fds");
        let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
        let maps = std::fs::read_to_string(format!("{proc}/maps")).expect("its mappings");
        let mut links = links.map(|link| link.display().to_string());
        links.any(|link| link.contains("perf_event")) || maps.contains("perf_event")
    };
    assert!(!has_events());
    tool.kill();
    target.tell("");
    assert_eq!(target.line(), "done");
    assert!(!has_events());
    target.hang_up();
    assert_eq!(target.finish().code, 0);
    world.expect_nothing_left();
}

#[test]
fn what_sampling_needs_is_said() {
    let world = World::new();
    // Like a container's: perf_event_open(2) is not permitted.
    let script = "import ctypes, os, struct, sys\n\
        code = [(0x20,0,0,0),(0x15,0,1,298),(6,0,0,0x50001),(6,0,0,0x7fff0000)]\n\
        text = b''.join(struct.pack('HBBI', *insn) for insn in code)\n\
        room = ctypes.create_string_buffer(text)\n\
        prog = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(room))\n\
        libc = ctypes.CDLL(None)\n\
        assert libc.prctl(38, 1, 0, 0, 0) == 0\n\
        assert libc.prctl(22, 2, prog, 0, 0) == 0\n\
        os.execvp(sys.argv[1], sys.argv[1:])\n";
    let binary = world.binary().display().to_string();
    let words = [
        "python3",
        "-c",
        script,
        &binary,
        "load",
        "bpftrace",
        "-e",
        "profile:hz:99 { }",
    ];
    let exit = Program::on_pipes(world.plain(&words)).finish();
    assert_ne!(exit.code, 0, "{exit:?}");
    let line = "bpftime: cannot sample: perf_event_open(2) is forbidden here";
    assert!(exit.stderr.contains(line), "{exit:?}");
    assert!(
        exit.stderr.contains("sysctl kernel.perf_event_paranoid=2"),
        "{exit:?}"
    );
}
