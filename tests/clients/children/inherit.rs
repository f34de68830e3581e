//! What is in the environment of what tools and wrappers execute.

use bpftime_tests::{Program, World};

use crate::table::expand;

/// Shows what a program inherits of ours, without directories: lines of
/// `NAME=VALUE`.
const SHOW: &str = "env | sed -n 's,[^:=]*/lib-[0-9a-f]*/,,g; /^LD_PRELOAD/p; /^BPFTIME_RUNTIME/p'";
const SERVER: &str = "LD_PRELOAD=libbpftime-syscall-server.so";
const AGENT: &str = "LD_PRELOAD=libbpftime-agent.so";
/// A library of the user's own.
const OWN: &str = "/lib/x86_64-linux-gnu/libm.so.6";

/// A tool in Python that executes [`SHOW`] in all ways, at each stage of its life.
const STAGES: &str = r#"
import os, subprocess, sys
show = sys.argv[1]
old = dict(os.environ)
def child(execute):
    pid = os.fork()
    if pid == 0:
        execute()
    os.waitpid(pid, 0)
def stage(name):
    shell = ["sh", "-c", show]
    ways = {
        "system": lambda: os.system(show),
        "subprocess": lambda: subprocess.run(shell),
        "old environment": lambda: subprocess.run(shell, env=old),
        "clean environment": lambda: subprocess.run(shell, env={"PATH": old["PATH"]}),
        "posix_spawn": lambda: os.waitpid(os.posix_spawn("/bin/sh", shell, old), 0),
        "posix_spawnp": lambda: os.waitpid(os.posix_spawnp("sh", shell, old), 0),
        "execv": lambda: child(lambda: os.execv("/bin/sh", shell)),
        "execvp": lambda: child(lambda: os.execvp("sh", shell)),
        "execve": lambda: child(lambda: os.execve("/bin/sh", shell, old)),
        "fexecve": lambda: child(lambda: os.execve(os.open("/bin/sh", 0), shell, old)),
    }
    for way, run in ways.items():
        print(f"{name}, {way}:", flush=True)
        run()
pipe = os.pipe()
early = os.fork()
if early == 0:
    os.read(pipe[0], 1)
    os.execv("/bin/sh", ["sh", "-c", show])
stage("wrapper")
import bcc
stage("tool")
program = bcc.BPF(text="int f(void *ctx) { return 0; }")
program.load_func("f", bcc.BPF.KPROBE)
stage("session")
print("forked before:", flush=True)
os.write(pipe[1], b"x")
os.waitpid(early, 0)
print("in its place:", flush=True)
os.execv("/bin/sh", ["sh", "-c", show])
"#;

/// What stands below each heading.
fn sections(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_suffix(':'), found.last_mut()) {
            (Some(heading), _) => found.push((heading.to_owned(), Vec::new())),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => panic!("a line before the first heading: {line}"),
        }
    }
    found
}

#[test]
fn every_way_to_execute_hands_on_what_is_right() {
    let world = World::new();
    let script = world.home().join("stages.py");
    std::fs::write(&script, STAGES).expect("a script");
    let words = ["load", "python3", "{home}/stages.py", SHOW];
    let shown = world.run(&expand(&world, &words));
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    let sections = sections(&shown.stdout);
    assert_eq!(sections.len(), 3 * 10 + 2, "{}", shown.stdout);
    for (heading, mut lines) in sections {
        lines.sort_unstable();
        let expected: &[&str] = match heading.split(", ").collect::<Vec<_>>()[..] {
            ["wrapper", _] | ["in its place"] => &["BPFTIME_RUNTIME=auto", SERVER],
            ["tool", "system"] => &[],
            _ => &[AGENT],
        };
        assert_eq!(lines, expected, "{heading}");
    }
}

#[test]
fn wrappers_hand_on_and_keep_what_the_user_preloads() {
    let world = World::new();
    let preload = |words: &[&str]| {
        let mut command = world.bpftime(words);
        command.env("LD_PRELOAD", OWN);
        let exit = Program::on_pipes(command).finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{words:?}");
        let line = exit.stdout.lines().find(|line| line.starts_with("LD_"));
        line.unwrap_or_default().to_owned()
    };
    let both = format!("LD_PRELOAD={OWN}:libbpftime-syscall-server.so");
    assert_eq!(preload(&["load", "sh", "-c", SHOW]), both);
    assert_eq!(preload(&["load", "timeout", "9", "sh", "-c", SHOW]), both);
    let bpftime = bpftime_tests::Stage::get().bpftime().display().to_string();
    let target = ["load", &bpftime, "start", "sh", "-c", SHOW];
    assert_eq!(preload(&target), format!("{both}:libbpftime-agent.so"));
    let nested = format!("sh -c \"{SHOW}\"");
    assert_eq!(preload(&["load", "sh", "-c", &nested]), both);
    // Who cleans the environment does not mean us, but all else.
    let clean = ["load", "env", "-i", "/bin/sh", "-c", SHOW];
    assert_eq!(preload(&clean), SERVER);
    // The script's strings are short.
    std::fs::write(world.home().join("show.sh"), SHOW).expect("a script");
    let script = "BEGIN { system(\"sh {home}/show.sh\"); exit(); }";
    let script = expand(&world, &[script]).concat();
    let children = ["load", "bpftrace", "--unsafe", "-e", &script];
    let both = format!("LD_PRELOAD={OWN}:libbpftime-agent.so");
    assert_eq!(preload(&children), both);
}

/// A wrapper that starts several tools, and a tool that starts another: each has
/// its own session.
#[test]
fn scripts_start_tools_and_tools_start_tools() {
    let world = World::new();
    world.fixture("rounds");
    let bpftime = bpftime_tests::Stage::get().bpftime().display().to_string();
    let count = |name: &str, command: &str| {
        format!(
            "bpftrace -e 'uprobe:{{home}}/rounds:rounds_add {{ @{name} = count(); }}' -c '{command}'"
        )
    };
    let script = [
        count("first", "{home}/rounds 3"),
        format!("exec {}", count("second", "{home}/rounds 4")),
    ]
    .join("\n");
    std::fs::write(
        world.home().join("tools.sh"),
        expand(&world, &[&script]).concat(),
    )
    .expect("a script");
    let nested = expand(&world, &[&count("inner", "{home}/rounds 5")]).concat();
    std::fs::write(
        world.home().join("nested.sh"),
        format!("exec {bpftime} load {nested}\n"),
    )
    .expect("a script");
    let shown = |words: &[&str]| {
        let exit = world.run(&expand(&world, words));
        assert_eq!(exit.code, 0, "{exit:?}");
        super::rows(&exit)
    };
    let expected = ["@first: 3", "@second: 4", "sum 30 right", "sum 46 right"];
    assert_eq!(shown(&["load", "sh", "{home}/tools.sh"]), expected);
    // The outer tool sees what the inner one's command does, too.
    let outer = "uprobe:{home}/rounds:rounds_add { @outer = count(); }";
    let command = "/bin/sh {home}/nested.sh";
    let expected = ["@inner: 5", "@outer: 5", "sum 65 right"];
    assert_eq!(
        shown(&["load", "bpftrace", "-e", outer, "-c", command]),
        expected
    );
}

/// A program is found, or not, as libc finds it.
#[test]
fn programs_are_found_as_ever() {
    let world = World::new();
    let write = |name: &str, mode: u32, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = world.home().join(name);
        std::fs::write(&path, text).expect("a file");
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&path, mode).expect("its mode");
    };
    // Without a first line that says what runs it.
    write("script", 0o755, "echo \"$0 $# $1 $2\"; exit 7\n");
    write("closed", 0o644, "echo never\n");
    write("wrong", 0o755, "#!/nonexistent/interpreter\n");
    let lines = [
        "PATH=/nonexistent:{home}/script:{home} script one two",
        "PATH=/nonexistent:{home} script",
        "PATH={home}:/bin closed",
        "PATH={home}:/bin wrong",
        "PATH={home}:/bin missing",
        "PATH=:{home} missing",
        "{home}/script one",
        "{home}/closed",
        "PATH=/bin sh -c true",
    ];
    for line in lines {
        let line = expand(&world, &[line]).concat();
        let words: Vec<&str> = ["env"].into_iter().chain(line.split(' ')).collect();
        let expected = Program::on_pipes(world.plain(&words)).finish();
        let found = world.run(&[&["load"], &words[..]].concat());
        assert_eq!(found, expected, "{line}");
    }
}
