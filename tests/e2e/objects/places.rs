//! Programs that a user puts where packets pass, sockets are used, or lists are
//! read: all in the kernel, as root, both ways; and what others put in place.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use bpftime_tests::{Exit, Mode, Program, World};

use super::kernels::{self, Group, as_root, in_network_of, talker, worlds};
use super::text;

/// A fixture with these programs alone, put on these places.
fn run(world: &World, object: &str, places: &[(&str, &str)], options: &[&str]) -> Command {
    let object = world.fixture(object);
    let mut words = vec!["run".to_owned()];
    if world.mode() == Mode::Kernel {
        words.extend(["--runtime", "kernel"].map(str::to_owned));
    }
    let bytes = fs::read(&object).expect("an object");
    let left_out = |name: &&&str| !places.iter().any(|(chosen, _)| chosen == *name);
    for name in ALL.iter().filter(left_out) {
        // Names stand in the object's strings.
        let quoted = format!("\0{name}\0");
        if bytes
            .windows(quoted.len())
            .any(|part| part == quoted.as_bytes())
        {
            words.extend(["--without".to_owned(), (*name).to_owned()]);
        }
    }
    for (name, place) in places.iter().filter(|(_, place)| !place.is_empty()) {
        words.extend(["--attach".to_owned(), format!("{name}={place}")]);
    }
    words.extend(options.iter().map(|&word| word.to_owned()));
    words.push(text(&object).to_owned());
    as_root(&[], &world.bpftime(&words))
}

/// All programs of these fixtures.
const ALL: [&str; 21] = [
    "tasks",
    "elements",
    "groups",
    "on_tcx",
    "on_netfilter",
    "on_lookup",
    "on_dissection",
    "on_socket",
    "on_device",
    "on_creation",
    "on_connect",
    "on_option",
    "on_sysctl",
    "on_route",
    "on_action",
    "on_choice",
    "replacement",
    "on_stream",
    "on_verdict",
    "on_message",
    "on_connection",
];

fn finish(command: Command) -> Exit {
    Program::on_pipes(command).finish()
}

/// The variables that a run printed.
fn counts(exit: &Exit) -> BTreeMap<&str, u64> {
    fn one(line: &str) -> Option<(&str, u64)> {
        let (name, count) = line.split_once(": ")?;
        Some((name, count.parse().ok()?))
    }
    exit.stdout.lines().filter_map(one).collect()
}

#[test]
fn packets_sockets_and_control_groups() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let group = Group::new("places");
        let mut talker = talker(&world, &group);
        let of_group = text(&group.0);
        let places = [
            ("on_tcx", "lo"),
            ("on_netfilter", "ipv4:output:-100"),
            ("on_lookup", "/proc/self/ns/net"),
            ("on_dissection", "/proc/self/ns/net"),
            ("on_socket", "lo"),
            ("on_device", of_group),
            ("on_creation", of_group),
            ("on_connect", of_group),
            ("on_option", of_group),
            ("on_sysctl", of_group),
        ];
        let tool = run(&world, "places.bpf.o", &places, &[]);
        let tool = Program::on_pipes(in_network_of(talker.pid(), &tool));
        tool.wait_stderr("\n");
        assert_eq!(tool.stderr(), "bpftime: attached; Ctrl-C ends\n");
        assert_eq!(talker.ask("talk"), "ok");
        let exit = tool.interrupt();
        // Gone with the command.
        assert_eq!(talker.ask("talk"), "ok");
        assert_eq!(talker.finish().code, 0);
        let mut counts = counts(&exit);
        // Acknowledgements come as they like.
        assert!(counts.remove("filtered") >= Some(7), "{exit:?}");
        let expected = [
            ("passed", 7),
            ("seen", 7),
            ("lookups", 8),
            ("created", 4),
            ("connected", 1),
        ];
        assert_eq!(counts, BTreeMap::from(expected), "{:?}", world.mode());
        assert_eq!(exit.code, 0);
    }
}

/// What `cat` shows of an iterator that bpftool pins: the object's first.
fn pinned(object: &Path) -> String {
    let script = "mount -t bpf bpf /sys/fs/bpf && bpftool iter pin \"$1\" /sys/fs/bpf/list && \
                  exec cat /sys/fs/bpf/list";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", text(object)]);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let exit = finish(command);
    assert_eq!(exit.code, 0, "{exit:?}");
    exit.stdout
}

#[test]
fn lists_are_what_others_read() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let named = world.home().join("only_listed");
        fs::copy(world.fixture("puppet"), &named).expect("a copy");
        let mut puppets = [(); 2].map(|()| {
            let mut puppet = Program::on_pipes(world.plain(&[&named]));
            puppet.line();
            puppet
        });
        let list = |places: &[(&str, &str)], options: &[&str]| {
            let exit = finish(run(&world, "lists.bpf.o", places, options));
            assert_eq!(
                (exit.code, exit.stderr.as_str()),
                (0, ""),
                "{:?}",
                world.mode()
            );
            exit.stdout
        };
        let tasks = list(&[("tasks", "")], &[]);
        assert_eq!(tasks, pinned(&world.fixture("lists.bpf.o")));
        let [first, second] = puppets.each_ref().map(Program::pid);
        let mut lines: Vec<&str> = tasks.lines().collect();
        lines.sort_unstable();
        let mut expected = [first, second].map(|pid| format!("{pid} \"only_listed\""));
        expected.sort();
        assert_eq!(lines, expected);
        let json = list(&[("tasks", "")], &["--json"]);
        let line = format!(r#"{{"program":"tasks","text":"{first} \"only_listed\""}}"#);
        assert!(
            json.lines().count() == 2 && json.lines().any(|one| one == line),
            "{json}"
        );
        assert_eq!(list(&[("elements", "table")], &[]), "0=0\n1=0\n2=0");
        let group = Group::new("lists");
        fs::create_dir(group.0.join("below")).expect("a group below");
        let ids = [group.0.clone(), group.0.join("below")].map(|path| id(&path));
        let groups = list(&[("groups", text(&group.0))], &[]);
        fs::remove_dir(group.0.join("below")).expect("a group below");
        assert_eq!(groups, format!("{}\n{}\n", ids[0], ids[1]));
        for puppet in &mut puppets {
            puppet.hang_up();
        }
        for puppet in puppets {
            assert_eq!(puppet.finish().code, 0);
        }
    }
}

/// A control group's id: the number of its directory.
fn id(group: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(group).expect("a group").ino()
}

#[test]
fn maps_that_only_the_kernel_has() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let group = Group::new("sockets");
        let mut talker = talker(&world, &group);
        let places = [
            ("on_stream", "peers"),
            ("on_verdict", "peers"),
            ("on_message", "peers"),
            ("on_connection", text(&group.0)),
        ];
        let tool = run(&world, "sockets.bpf.o", &places, &[]);
        let tool = Program::on_pipes(in_network_of(talker.pid(), &tool));
        tool.wait_stderr("\n");
        assert_eq!(tool.stderr(), "bpftime: attached; Ctrl-C ends\n");
        assert_eq!(talker.ask("talk"), "ok");
        assert_eq!(tool.interrupt().code, 0);
        assert_eq!(talker.finish().code, 0);

        let available = || {
            let path = "/proc/sys/net/ipv4/tcp_available_congestion_control";
            let names = fs::read_to_string(path).expect("ways to avoid congestion");
            names.split_whitespace().any(|name| name == "bpftime_calm")
        };
        let tool = Program::on_pipes(run(&world, "operations.bpf.o", &[], &[]));
        tool.wait_stderr("\n");
        assert!(available(), "{}", tool.stderr());
        assert_eq!(tool.interrupt().code, 0);
        assert!(!available());
    }
}

#[test]
fn what_others_put_in_place_is_said() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        for (program, section, whose) in [
            ("on_route", "lwt_in", "put on a route, by ip-route(8)"),
            ("on_action", "action", "put on a filter of tc-bpf(8)"),
            (
                "on_choice",
                "sk_reuseport",
                "put on a socket, by the process that has it",
            ),
            (
                "replacement",
                "freplace/other",
                "to replace a function of a program that is loaded already, by its own loader",
            ),
        ] {
            let exit = finish(run(&world, "places.bpf.o", &[(program, "")], &[]));
            let line = format!(
                "bpftime: {program}: section \"{section}\" is {whose}: leave it out by --without \
                 {program}, or load it only by --attach {program}=off\n"
            );
            assert_eq!((exit.code, exit.stderr), (1, line));
        }
    }
}

#[test]
fn an_ordinary_user_is_told_what_only_the_kernel_has() {
    let world = World::new();
    let told = |object: &str, options: &[&str]| {
        let object = world.fixture(object);
        let mut words = vec!["run"];
        words.extend(options);
        words.push(text(&object));
        let exit = world.run(&words);
        (exit.code, exit.stdout, exit.stderr)
    };
    let missing = "which takes CAP_BPF and CAP_PERFMON, as root has";
    let advice = "run it as root, by --runtime auto or kernel";
    for (object, map, reason) in [
        ("sockets.bpf.o", "peers", "sockets in maps are the kernel's"),
        (
            "operations.bpf.o",
            "calm",
            "operations of the kernel cannot be replaced from user space",
        ),
    ] {
        let line = format!(
            "bpftime: {map}: only the kernel hosts map {map}: {reason}, {missing}: {advice}\n"
        );
        assert_eq!(told(object, &[]), (1, String::new(), line));
    }
    let (code, table, _) = told(
        "sockets.bpf.o",
        &["--explain", "--attach", "on_message=peers"],
    );
    let row = format!(
        "on_message     sk_msg                 nowhere  only the kernel hosts map peers: sockets in \
         maps are the kernel's, {missing}"
    );
    assert_eq!((code, table.lines().nth(3)), (0, Some(&*row)));
    for (program, what) in [
        (
            "tasks",
            "section \"iter/task\": only the kernel hosts tracing programs",
        ),
        (
            "elements",
            "section \"iter/bpf_map_elem\": only the kernel hosts tracing programs",
        ),
    ] {
        let others = ["tasks", "elements", "groups"]
            .into_iter()
            .filter(|name| *name != program);
        let options: Vec<&str> = others.flat_map(|name| ["--without", name]).collect();
        let line = format!(
            "bpftime: {program}: {what}, {missing}: run it as root, or leave it out by --without {program}\n"
        );
        assert_eq!(told("lists.bpf.o", &options), (1, String::new(), line));
    }
    // A program of a type that user space loads, which asks for what packets have.
    let others = ALL[3..17].iter().filter(|name| **name != "on_socket");
    let options: Vec<&str> = others.flat_map(|name| ["--without", *name]).collect();
    let line = format!(
        "bpftime: on_socket: section \"socket\": only the kernel hosts socket_filter programs, \
         {missing}: run it as root, or leave it out by --without on_socket\n"
    );
    assert_eq!(told("places.bpf.o", &options), (1, String::new(), line));
    // One that could be loaded, but not be put there.
    let tool = kernels::run(&world, &["on_socket"], &["--attach", "on_socket=lo"]);
    let exit = finish(tool);
    let line = format!(
        "bpftime: on_socket: section \"socket\": only the kernel hosts what is put on sockets, \
         {missing}: run it as root, or leave it out by --without on_socket\n"
    );
    assert_eq!(
        (exit.code, exit.stdout, exit.stderr),
        (1, String::new(), line)
    );
}

#[test]
fn a_directory_that_is_no_control_group_is_told() {
    let Some(worlds) = worlds() else { return };
    for world in worlds {
        let home = text(world.home());
        let exit = finish(run(&world, "places.bpf.o", &[("on_connect", home)], &[]));
        let begin = format!(
            "bpftime: on_connect: {home} is no control group of version 2; those are below /"
        );
        let end = ": --attach on_connect=TARGET, or on_connect=off\n";
        let told = exit.stderr.starts_with(&begin) && exit.stderr.ends_with(end);
        assert!(exit.code == 1 && told, "{exit:?}");
    }
}
