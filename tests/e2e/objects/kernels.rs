//! Programs that only a kernel hosts: with privilege they run there, beside
//! those of the same object that user space hosts; without it the user is
//! told which, and what is missing. Each on a network or a control group of its own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use bpftime_tests::{Mode, Program, World};

use super::text;

/// Sends seven packets of ten bytes to itself and makes a connection, then waits.
const TALK: &str = "
import socket, sys
def talk():
    inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inbox.bind(('127.0.0.1', 0))
    outbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(7):
        outbox.sendto(b'0123456789', inbox.getsockname())
        inbox.recv(100)
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen()
    caller = socket.create_connection(listener.getsockname())
    listener.accept()
for line in sys.stdin:
    talk()
    print('ok', flush=True)
";

/// All of its programs.
const PROGRAMS: [&str; 13] = [
    "on_call",
    "on_packet",
    "on_ingress",
    "on_egress",
    "on_group",
    "on_connection",
    "on_switch",
    "on_wakeup",
    "on_mkdir",
    "on_entry",
    "each_task",
    "on_socket",
    "on_function",
];

/// Both privileged ways to run an object.
pub fn worlds() -> Option<[World; 2]> {
    Some([World::privileged()?, World::kernel()?])
}

/// A control group that goes with this.
pub struct Group(pub PathBuf);

impl Group {
    pub fn new(name: &str) -> Group {
        let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
        let at = mounts.lines().find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (at, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| at.to_owned())
        });
        let at = PathBuf::from(at.expect("control groups of the second version"));
        let group = at.join(format!("bpftime-{name}-{}", std::process::id()));
        fs::create_dir(&group).expect("a control group");
        Group(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have ended; if not, it stays, as they do.
        drop(fs::remove_dir(&self.0));
    }
}

/// Runs `kernels` with these programs alone.
pub fn run(world: &World, programs: &[&str], options: &[&str]) -> Command {
    let object = world.fixture("kernels.bpf.o");
    let mut words = vec!["run"];
    if world.mode() == Mode::Kernel {
        words.extend(["--runtime", "kernel"]);
    }
    for left_out in PROGRAMS.iter().filter(|name| !programs.contains(name)) {
        words.extend(["--without", left_out]);
    }
    let mut options = options.to_vec();
    options.insert(0, text(&object));
    let at = options.iter().skip(1).position(|word| *word == "--target");
    let behind = at.map_or(Vec::new(), |at| options.split_off(at + 1));
    words.extend(&options[1..]);
    words.push(options[0]);
    words.extend(behind);
    world.bpftime(&words)
}

/// The same command in a network that has a `lo` and nothing else, of the
/// process with this id.
pub fn in_network_of(pid: i32, command: &Command) -> Command {
    as_root(&["nsenter", "-n", "-t", &pid.to_string()], command)
}

/// The same command behind these words, by root.
pub fn as_root(words: &[&str], command: &Command) -> Command {
    let mut all: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    all.push(command.get_program());
    all.extend(command.get_args());
    let mut within = Command::new(all[0]);
    within.args(&all[1..]).env_clear();
    let set = command.get_envs();
    within.envs(set.filter_map(|(name, value)| Some((name, value?))));
    within
}

/// Who talks, in this group and on a network of its own.
pub fn talker(world: &World, group: &Group) -> Program {
    let script = "echo $$ > \"$1/cgroup.procs\"; ip link set lo up; exec python3 -uc \"$2\"";
    let group = text(&group.0);
    let words = ["unshare", "-n", "sh", "-c", script, "sh", group, TALK];
    let mut command = world.plain(&words);
    command.uid(0).gid(0);
    let mut talker = Program::on_pipes(command);
    // The network is up when it has talked once.
    assert_eq!(talker.ask("talk"), "ok");
    talker
}

#[test]
fn a_guest_has_programs_on_both_sides() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let group = Group::new("guest");
        let mut talker = talker(&world, &group);
        let module = world.fixture("mixed.wasm");
        let path = world.fixture("puppet");
        let mut puppet = world.start(&[&path]);
        puppet.line();
        let group = text(&group.0);
        let targets = [
            format!("on_call={}:puppet_step", path.display()),
            "on_packet=lo".to_owned(),
            format!("on_group={group}"),
            // The directory that the guest is given below, by its fd.
            "on_connection=@3".to_owned(),
        ];
        let mut words = vec!["run", "--dir", group];
        if world.mode() == Mode::Kernel {
            words.extend(["--runtime", "kernel"]);
        }
        words.push(text(&module));
        words.extend(targets.iter().map(String::as_str));
        let guest = in_network_of(talker.pid(), &world.bpftime(&words));
        let mut guest = Program::on_pipes(guest);
        assert_eq!(guest.line(), "ready");
        assert_eq!(guest.ask("?"), " 0 0 0 0");
        for rounds in 1..=2 {
            assert_eq!(talker.ask("talk"), "ok");
            assert_eq!(puppet.ask("call 9"), "ok");
            let counts = format!(" {} {} {} {rounds}", 9 * rounds, 7 * rounds, 7 * rounds);
            assert_eq!(guest.ask("?"), counts, "{:?}", world.mode());
        }
        let exit = guest.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
        assert_eq!((talker.finish().code, puppet.finish().code), (0, 0));
    }
}

#[test]
fn a_guest_of_an_ordinary_user_is_told_what_is_missing() {
    let world = World::new();
    let module = world.fixture("mixed.wasm");
    let exit = world.run(&["run", text(&module), "on_packet=lo"]);
    let line = "bpftime: on_packet: section \"xdp\": only the kernel hosts xdp programs, \
                which takes CAP_BPF and CAP_PERFMON, as root has\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (3, line), "{exit:?}");
    let explained = world.run(&["run", "--explain", text(&module)]);
    let missing = "which takes CAP_BPF and CAP_PERFMON, as root has";
    let group = "name directory of a control group";
    let expected = format!(
        "PROGRAM        SECTION            RUNS IN     WHY
on_call        uprobe             user space  user space hosts it; section \"uprobe\" does not say where: name PATH:FUNCTION[+OFFSET]
on_packet      xdp                nowhere     only the kernel hosts xdp programs, {missing}; section \"xdp\" does not say where: name network interface
on_group       cgroup_skb/egress  nowhere     only the kernel hosts cgroup_skb programs, {missing}; section \"cgroup_skb/egress\" does not say where: {group}
on_connection  sockops            nowhere     only the kernel hosts sock_ops programs, {missing}; section \"sockops\" does not say where: {group}
"
    );
    assert_eq!((explained.code, explained.stdout), (0, expected));
}

#[test]
fn packets_and_connections() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let group = Group::new("talk");
        let mut talker = talker(&world, &group);
        let path = world.fixture("puppet");
        let mut puppet = world.bare_puppet();
        let (place, pid) = (text(&path), puppet.pid().to_string());
        let on_call = format!("on_call={place}:puppet_step");
        let on_group = format!("on_group={}", group.0.display());
        let on_connection = format!("on_connection={}", group.0.display());
        let attach = [
            &on_call,
            "on_packet=lo",
            "on_ingress=lo",
            "on_egress=lo",
            &on_group,
            &on_connection,
        ];
        let mut options: Vec<&str> = attach
            .iter()
            .flat_map(|words| ["--attach", *words])
            .collect();
        options.extend(["--pid", &pid]);
        let tool = run(&world, &PROGRAMS[..6], &options);
        let tool = Program::on_pipes(in_network_of(talker.pid(), &tool));
        tool.wait_stderr("attached");
        assert_eq!(talker.ask("talk"), "ok");
        assert_eq!(puppet.ask("call 9"), "ok");
        let exit = tool.interrupt();
        // Gone with the command.
        assert_eq!(talker.ask("talk"), "ok");
        assert_eq!((talker.finish().code, puppet.finish().code), (0, 0));
        let mut lines: Vec<&str> = exit.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "both[1]: 9",
                "both[2]: 7",
                "bytes: 70",
                "calls: 9",
                "connections: 1",
                "egress: 7",
                "group_packets: 7",
                "ingress: 7",
                "packets: 7",
            ],
            "{exit:?} {:?}",
            world.mode()
        );
        assert_eq!(
            (exit.code, exit.stderr.as_str()),
            (0, "bpftime: attached; Ctrl-C ends\n")
        );
    }
}

#[test]
fn events_of_the_scheduler() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let mut puppet = world.bare_puppet();
        let pid = puppet.pid().to_string();
        let tool = run(&world, &["on_switch", "on_wakeup"], &["--target", &pid]);
        let script = "mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";
        let mut within = Command::new("unshare");
        within.args(["-m", "sh", "-c", script, "sh"]).env_clear();
        within.arg(tool.get_program()).args(tool.get_args());
        for (name, value) in tool.get_envs() {
            if let Some(value) = value {
                within.env(name, value);
            }
        }
        let tool = Program::on_pipes(within);
        tool.wait_stderr("attached");
        for _ in 0..5 {
            assert_eq!(puppet.ask("call 1"), "ok");
            puppet.wait_reading();
        }
        let exit = tool.interrupt();
        assert_eq!(puppet.finish().code, 0);
        let count = |name: &str| {
            let found = exit
                .stdout
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found
                .and_then(|count| count.parse::<u64>().ok())
                .unwrap_or(0)
        };
        // It slept before each line and was woken by it.
        assert!(
            count("switches") >= 5 && count("wakeups") >= 5,
            "{exit:?} {:?}",
            world.mode()
        );
        assert_eq!(exit.code, 0);
    }
}

#[test]
fn an_ordinary_user_is_told_which_and_what_is_missing() {
    let world = World::new();
    let missing = "which takes CAP_BPF and CAP_PERFMON, as root has: run it as root, or leave it out by --without";
    for (program, section, what) in [
        ("on_packet", "xdp", "xdp programs"),
        ("on_ingress", "tc/ingress", "sched_cls programs"),
        ("on_group", "cgroup_skb/egress", "cgroup_skb programs"),
        ("on_connection", "sockops", "sock_ops programs"),
        ("on_switch", "tp_btf/sched_switch", "tracing programs"),
        (
            "on_wakeup",
            "tp/sched/sched_wakeup",
            "tracepoint sched:sched_wakeup",
        ),
        ("on_mkdir", "lsm/path_mkdir", "lsm programs"),
        ("on_entry", "fentry/do_mkdirat", "tracing programs"),
        ("each_task", "iter/task", "tracing programs"),
    ] {
        let exit = Program::on_pipes(run(&world, &[program], &[])).finish();
        let line = format!(
            "bpftime: {program}: section \"{section}\": only the kernel hosts {what}, {missing} {program}\n"
        );
        assert_eq!(
            (exit.code, exit.stdout.as_str(), exit.stderr),
            (1, "", line)
        );
    }
}

#[test]
fn a_kernel_without_kprobes_is_told() {
    let told_by = [
        "/sys/bus/event_source/devices/kprobe",
        "/sys/kernel/tracing/kprobe_events",
    ];
    let has_kprobes = told_by.iter().any(|path| fs::exists(path).unwrap_or(false));
    let Some(worlds) = worlds().filter(|_| !has_kprobes) else {
        return;
    };
    for world in worlds {
        let tool = run(&world, &["on_function"], &[]);
        let exit = Program::on_pipes(as_root(&[], &tool)).finish();
        let line = "bpftime: on_function: section \"kprobe/do_unlinkat\": this kernel has no kprobes \
                    (CONFIG_KPROBES): leave it out by --without on_function\n";
        assert_eq!((exit.code, exit.stderr.as_str()), (1, line));
    }
}
