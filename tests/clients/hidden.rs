//! Kernels that hide what loaders ask for: their types (BTF) and their
//! configuration. Stood for by a mount namespace in which both are covered, for
//! which the test needs root.

use std::process::Command;

use bpftime_tests::{Program, Stage, World};

use crate::table::expand;

/// Covers them, then goes on as the user whose id is the first argument.
const COVERED: &str = "\
    mount -t tmpfs -o mode=755 none /sys/kernel/btf && touch /sys/kernel/btf/nothing && \
    chmod 0 /sys/kernel/btf/nothing && mount --bind /sys/kernel/btf/nothing /proc/config.gz && \
    rm /sys/kernel/btf/nothing && user=$1 && shift && \
    exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups \"$@\"";

/// The tests' world as an ordinary user with nothing hidden, and `None` where
/// nothing can be covered; in CI that is an error.
fn world() -> Option<World> {
    World::kernel().map(|_| World::new())
}

/// A `bpftime load` command of the world's user where both are covered.
fn covered(world: &World, words: &[&str]) -> Program {
    let plain = world.plain(&["true"]);
    let mut command = Command::new("unshare");
    let uid = world.uid().to_string();
    command
        .args(["-m", "sh", "-c", COVERED, "sh", &uid])
        .env_clear();
    for (name, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
        .arg(Stage::get().bpftime())
        .arg("load")
        .args(expand(world, words));
    Program::on_pipes(command)
}

#[test]
fn objects_adapt_to_types_of_our_own() {
    let Some(world) = world() else { return };
    for (program, name) in [("/bin/dash", "life"), ("/bin/true", "quick")] {
        let copied = std::fs::copy(program, world.home().join(name));
        assert!(copied.is_ok(), "{program}: {copied:?}");
    }
    let mut tool = covered(&world, &["stdbuf", "-oL", "exitsnoop"]);
    assert!(tool.line().starts_with("PCOMM"));
    tool.wait_idle();
    let life = "{home}/life -c '{home}/quick; exit 3' || echo $$";
    let shell = world.start(&[
        "sh".to_owned(),
        "-c".to_owned(),
        expand(&world, &[life])[0].clone(),
    ]);
    let parent = shell.pid().to_string();
    assert_eq!(shell.finish().code, 0);
    let rows = tool.lines_until(|line| line.starts_with("sh "));
    let row = |name: &str| -> Vec<String> {
        let found = rows.iter().find(|row| row.starts_with(name));
        let row = found.unwrap_or_else(|| panic!("{name}: {rows:?}"));
        row.split_whitespace().map(str::to_owned).collect()
    };
    // NAME PID PPID TID AGE END
    let (life, quick) = (row("life"), row("quick"));
    assert_eq!(
        (&life[2], life.last().map(String::as_str)),
        (&parent, Some("3"))
    );
    assert_eq!(
        (&quick[2], quick.last().map(String::as_str)),
        (&life[1], Some("0"))
    );
    tool.kill();
}

#[test]
fn bpftrace_walks_tasks_by_types_of_our_own() {
    let Some(world) = world() else { return };
    let script = "BEGIN { printf(\"%d %d %s\\n\", curtask->tgid == pid, \
        curtask->real_parent->tgid > 1, curtask->comm); exit() }";
    let exit = covered(&world, &["bpftrace", "-e", script]).finish();
    assert_eq!(exit.code, 0, "{exit:?}");
    assert!(exit.stdout.contains("\n1 1 bpftrace\n"), "{exit:?}");
}

#[test]
fn configuration_is_what_is_certain() {
    let Some(world) = world() else { return };
    world.fixture("kconfig");
    let shown = |mut tool: Program| {
        let line = tool.line();
        (line, tool.finish().code)
    };
    let ours = shown(covered(&world, &["{home}/kconfig"]));
    let kernel = World::kernel().expect("there was one before");
    let theirs = shown(Program::on_pipes(kernel.tool(&[kernel.fixture("kconfig")])));
    assert_eq!(ours, theirs);
    assert!(ours.0.ends_with(" 1 1 0"), "{ours:?}");
    // As a file of gzip's, to everybody who looks.
    let script = "import gzip; print(gzip.open('/proc/config.gz', 'rt').read().count('=y'))";
    let exit = covered(&world, &["python3", "-c", script]).finish();
    assert_eq!((exit.stdout.as_str(), exit.code), ("19\n", 0), "{exit:?}");
}
