//! Kernels that hide their types: what needs none runs as ever, what does is
//! fitted to those of a file, or refused with advice.

use std::fs;
use std::process::Command;

use bpftime_tests::{Program, World};

use super::text;

/// Covers them, then goes on as the user whose id is the first argument.
const COVERED: &str = "mount -t tmpfs -o mode=755 none /sys/kernel/btf && user=$1 && shift && \
    exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups \"$@\"";

/// `bpftime run` where the kernel's types are hidden, on four calls of `tgt`.
fn hidden(
    world: &World,
    user: u32,
    object: &str,
    options: &[&str],
    variable: Option<&str>,
) -> bpftime_tests::Exit {
    let object = world.fixture(object);
    let path = world.fixture("tgt");
    let attach = format!("on_call={}:tgt_add", path.display());
    let mut words = vec!["run", "--attach", &attach];
    words.extend(options);
    words.extend([text(&object), "--", text(&path), "4", "0"]);
    let command = world.bpftime(&words);
    let mut within = Command::new("unshare");
    within
        .args(["-m", "sh", "-c", COVERED, "sh", &user.to_string()])
        .env_clear();
    within.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            within.env(name, value);
        }
    }
    if let Some(path) = variable {
        within.env("BTF_FILE_PATH", path);
    }
    Program::on_pipes(within).finish()
}

/// What is said, but for the target's line.
fn said(exit: &bpftime_tests::Exit) -> (i32, Vec<&str>) {
    let mut lines: Vec<&str> = exit
        .stdout
        .lines()
        .filter(|line| !line.ends_with(" right"))
        .collect();
    lines.sort_unstable();
    (exit.code, lines)
}

#[test]
fn user_space_never_needs_them() {
    let Some(_) = World::kernel() else { return };
    let world = World::new();
    let plain = hidden(&world, world.uid(), "plain.bpf.o", &[], None);
    // 0 + 1 + 2 + 3, of which nobody knows that it is a number.
    assert_eq!(
        said(&plain),
        (0, vec!["bss: 0600000000000000"]),
        "{plain:?}"
    );
    let moved = hidden(&world, world.uid(), "moved.bpf.o", &[], None);
    assert_eq!(said(&moved), (0, vec!["own: 4", "size: 1"]), "{moved:?}");
}

#[test]
fn the_kernel_needs_them_for_what_is_relocated() {
    let Some(world) = World::kernel() else { return };
    let kernel = ["--runtime", "kernel"];
    let plain = hidden(&world, 0, "plain.bpf.o", &kernel, None);
    assert_eq!(
        said(&plain),
        (0, vec!["bss: 0600000000000000"]),
        "{plain:?}"
    );
    let moved = hidden(&world, 0, "moved.bpf.o", &kernel, None);
    assert_eq!(
        (moved.code, moved.stderr.as_str()),
        (
            1,
            "bpftime: moved: needs the kernel's types, which are not there (No such process): \
             name a file with the kernel's types by --btf FILE\n"
        )
    );
    let file = world.home().join("types");
    fs::copy("/sys/kernel/btf/vmlinux", &file).expect("the kernel's types");
    let given = hidden(
        &world,
        0,
        "moved.bpf.o",
        &[kernel[0], kernel[1], "--btf", text(&file)],
        None,
    );
    assert_eq!(said(&given), (0, vec!["own: 4", "size: 1"]), "{given:?}");
    let known = hidden(&world, 0, "moved.bpf.o", &kernel, Some(text(&file)));
    assert_eq!(said(&known), (0, vec!["own: 4", "size: 1"]), "{known:?}");
}
