//! Programs that only the kernel can host: with privilege they run there and
//! meet their companions in user space in one map, without it the tool is told
//! what is missing. The same tool without bpftime says what the sums are.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use bpftime_tests::{Program, World};

/// The tool, its target, and the command whose executions the kernel counts.
struct Scene {
    command: PathBuf,
    tool: Program,
    puppet: Program,
}

impl Scene {
    fn new(world: &World, name: &str, options: &[&str]) -> Scene {
        let command = world.home().join(name);
        fs::copy("/bin/true", &command).expect("a command of its own");
        let mut options = options.to_vec();
        options.push(name);
        let path = world.fixture("puppet");
        let tool = world.fixture_tool("shared", &options, &path, "puppet_step");
        let puppet = world.puppet();
        Scene {
            command,
            tool,
            puppet,
        }
    }

    fn call(&mut self, times: u32) {
        assert_eq!(self.puppet.ask(&format!("call {times}")), "ok");
    }

    /// Executes the command; its process ids.
    fn exec(&self, times: u32) -> Vec<u32> {
        let run = |_| {
            let mut child = Command::new(&self.command).spawn().expect("the command");
            let pid = child.id();
            assert!(child.wait().expect("the command").success());
            pid
        };
        (0..times).map(run).collect()
    }

    /// Attaches the kernel's program.
    fn attach_exec(&mut self) {
        assert_eq!(self.tool.ask("exec"), "attached");
    }

    fn printed(&mut self) -> Vec<String> {
        self.answers("print")
    }

    fn answers(&mut self, command: &str) -> Vec<String> {
        self.tool.tell(command);
        let mut lines = self.tool.lines_until(|line| line == ".");
        lines.pop();
        lines
    }

    fn end(mut self) {
        self.tool.tell("quit");
        assert_eq!(self.tool.finish().code, 0);
        self.puppet.tell("quit");
        assert_eq!(self.puppet.finish().code, 0);
        fs::remove_file(&self.command).expect("the command");
    }
}

/// Both privileged ways to run the tool.
fn worlds() -> Option<[World; 2]> {
    Some([World::privileged()?, World::kernel()?])
}

#[test]
fn both_sides_count_in_one_memory() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let mut scene = Scene::new(&world, "kmglobals", &[]);
        scene.call(5);
        scene.exec(2);
        scene.attach_exec();
        let first = scene.exec(3);
        scene.call(7);
        let last = scene.exec(2);
        assert_eq!(first.len() + last.len(), 5);
        let seen = format!("call saw {}", first[2]);
        let sums = [
            "calls 12",
            "execs 5",
            "all 17",
            &seen,
            "exec saw 6",
            "plain 0 12",
            "plain 1 5",
        ];
        assert_eq!(scene.printed(), sums, "{:?}", world.mode());
        scene.call(1);
        let seen = format!("call saw {}", last[1]);
        assert_eq!(scene.printed()[3], seen, "{:?}", world.mode());
        scene.end();
    }
}

/// What the ordinary user's tool is told.
#[test]
fn who_may_not_load_programs_is_told_what_is_missing() {
    let world = World::new();
    let mut scene = Scene::new(&world, "kmrefused", &[]);
    scene.call(3);
    scene.tool.tell("exec");
    let exit = scene.tool.finish();
    assert_eq!(exit.code, 1);
    assert!(
        exit.stderr.contains(
            "bpftime: program \"exec_globals\": only the kernel hosts raw tracepoint \
             sched_process_exec, which takes CAP_BPF and CAP_PERFMON, as root has\n"
        ),
        "{}",
        exit.stderr
    );
    scene.puppet.tell("quit");
    assert_eq!(scene.puppet.finish().code, 0);
}

/// The sums of both sides, alone and together, in hashes and per-CPU maps.
#[test]
fn both_sides_count_in_one_hash() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let mut scene = Scene::new(&world, "kmmaps", &["-m"]);
        scene.call(5);
        scene.exec(2);
        scene.attach_exec();
        scene.exec(3);
        scene.call(7);
        scene.exec(2);
        let sums = [
            "0: 4 5 58 percpu 9",
            "1: 3 0 7 percpu 3",
            "2: 3 0 10 percpu 3",
            "3: 2 0 6 percpu 2",
            "1000: 12 5 81",
            "percpu 17",
        ];
        assert_eq!(scene.printed(), sums, "{:?}", world.mode());
        scene.end();
    }
}

/// Threads of the target and executions at the same time: nothing is lost.
#[test]
fn no_count_is_lost_between_the_sides() {
    let Some(world) = World::privileged() else {
        return;
    };
    let mut scene = Scene::new(&world, "kmrace", &["-m"]);
    scene.attach_exec();
    scene.puppet.tell("threads 4 1000");
    scene.exec(60);
    assert_eq!(scene.puppet.line(), "ok");
    let sum: u64 = 4 * (0..1000).sum::<u64>() + 600;
    let printed = scene.printed();
    assert!(
        printed.contains(&format!("1000: 4000 60 {sum}")),
        "{printed:#?}"
    );
    assert!(printed.contains(&"percpu 4060".to_owned()), "{printed:#?}");
    let zeros: u64 = 4 * (0..1000).filter(|n| n % 4 == 0).sum::<u64>() + 600;
    let first = format!("0: 1000 60 {zeros} percpu 1060");
    assert_eq!(printed[0], first, "{printed:#?}");
    scene.end();
}

/// A killed tool takes its side away, and the target goes on; a killed target
/// leaves what it had counted.
#[test]
fn either_may_be_killed() {
    let Some(world) = World::privileged() else {
        return;
    };
    for options in [&[][..], &["-m"]] {
        let mut scene = Scene::new(&world, "kmkilled", options);
        scene.attach_exec();
        scene.call(3);
        scene.exec(2);
        let mut second = world.puppet();
        assert_eq!(second.ask("call 4"), "ok");
        second.kill();
        let printed = scene.printed();
        let counted = match options {
            [] => "all 9",
            _ => "1000: 7 2 29",
        };
        assert!(printed.iter().any(|line| line == counted), "{printed:#?}");
        let Scene {
            tool, mut puppet, ..
        } = scene;
        let fds = puppet.ask("fds");
        puppet.tell("threads 2 2000");
        tool.kill();
        assert_eq!(puppet.line(), "ok");
        assert_eq!(puppet.ask("call 1000"), "ok");
        assert_eq!(puppet.ask("fds"), fds);
        puppet.tell("quit");
        assert_eq!(puppet.finish().code, 0);
        world.expect_nothing_left();
    }
}

/// One reader gets the records of both sides, each once.
#[test]
fn both_sides_write_one_ring() {
    one_reader("kmring", "-r");
}

#[test]
fn both_sides_write_one_perf_event_array() {
    one_reader("kmevents", "-e");
}

fn one_reader(command: &str, option: &str) {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let mut scene = Scene::new(&world, command, &[option]);
        scene.call(10);
        assert_eq!(scene.answers("print 10"), ["user 10 45", "kernel 0 0"]);
        scene.attach_exec();
        let sum = |pids: Vec<_>| pids.into_iter().map(u64::from).sum::<u64>();
        let four = sum(scene.exec(4));
        scene.call(1000);
        let sums = ["user 1010 499545", &format!("kernel 4 {four}")];
        assert_eq!(scene.answers("print 1014"), sums, "{:?}", world.mode());
        let five = four + sum(scene.exec(1));
        let sums = ["user 1010 499545", &format!("kernel 5 {five}")];
        assert_eq!(scene.answers("print 1015"), sums, "{:?}", world.mode());
        scene.end();
    }
}

/// Where cgroups of the second version are mounted.
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    mounts.find_map(|mut words| {
        let (at, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| at.into())
    })
}

#[test]
fn a_tool_that_only_the_kernel_hosts_filters_by_cgroup() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let mut words: Vec<std::ffi::OsString> = ["runqlat", "1", "1"].map(Into::into).into();
        if let Some(root) = cgroups() {
            words.extend(["-c".into(), root.into()]);
        }
        let shown = world.load(&words).finish();
        let counts = shown.stdout.lines().filter_map(|line| {
            let (_, bar) = line.split_once(" : ")?;
            bar.split_whitespace().next()?.parse::<u64>().ok()
        });
        assert!(counts.sum::<u64>() > 0, "{words:?}: {}", shown.stdout);
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    }
}

#[test]
fn a_tool_reads_the_stacks_that_the_kernel_keeps() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let shown = world.load(&["wakeuptime", "1"]).finish();
        let who_wakes = shown.stdout.matches("try_to_wake_up").count();
        // Some are missing in either: two had one place.
        assert!(who_wakes > 0 && shown.code == 0, "{shown:?}");
    }
}

/// Maps that user space has no type for, or cannot share, go to the kernel with
/// the programs that use them, and the tool's fds with them.
#[test]
fn maps_that_are_the_kernels_alone() {
    let Some(worlds) = worlds() else { return };
    let [ours, theirs] = worlds.map(|world| {
        let tool = world
            .load(&[world.fixture("packets").into_os_string()])
            .finish();
        assert_eq!((tool.code, tool.stderr.as_str()), (0, ""));
        tool.stdout
    });
    assert_eq!(ours, theirs);
    let sums = "seen 7 entry 14 total 4\nqueue 1\n";
    assert!(theirs.contains(sums), "{theirs}");
}

/// Its name would go on to lead to what is in the session. libbpf takes names back
/// when it fails, so nothing is left.
#[test]
fn a_pinned_map_is_not_given_away() {
    let Some(world) = World::privileged() else {
        return;
    };
    let packets = world.fixture("packets").into_os_string();
    let tool = world.load(&[packets, "/sys/fs/bpf/routes".into()]).finish();
    assert_eq!(tool.code, 1, "{tool:?}");
    let line = "bpftime: map \"routes\" of type 11 cannot go to the kernel with a program that uses it \
                (not supported (ENOTSUPP)); try --runtime kernel\n";
    assert!(tool.stderr.starts_with(line), "{tool:?}");
}

#[test]
fn without_privilege_such_maps_are_refused() {
    let world = World::new();
    let tool = world
        .load(&[world.fixture("packets").into_os_string()])
        .finish();
    assert_eq!(tool.code, 1);
    let line =
        "bpftime: map devices cannot be made: packets that it would redirect are the kernel's\n";
    assert!(tool.stderr.starts_with(line), "{tool:?}");
}
