//! Wasm modules are compiled once: what is kept of them is used again, if it is
//! surely this user's and whole, and whatever is wrong with it costs time only.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use bpftime_tests::{Exit, Program, World};
use nix::unistd::Uid;

/// Exit status of a module that traps.
const TRAPPED: i32 = 134;

/// A module whose `_start` is this code.
fn module(world: &World, name: &str, code: &[u8]) -> PathBuf {
    let size = code.len() as u8;
    let bytes: [&[u8]; 4] = [
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a",
        &[size + 4, 1, size + 2, 0],
        code,
        b"\x0b",
    ];
    let path = world.home().join(name);
    fs::write(&path, bytes.concat()).expect("a module");
    path
}

/// One that does nothing.
fn quiet(world: &World) -> PathBuf {
    module(world, "quiet.wasm", b"\x01")
}

/// One that traps (`unreachable`).
fn trapping(world: &World) -> PathBuf {
    module(world, "trapping.wasm", b"\x00")
}

fn run(world: &World, module: &Path) -> Exit {
    world.run(&["run".as_ref(), module.as_os_str()])
}

fn cache(world: &World) -> PathBuf {
    world.home().join("state/wasm")
}

/// The files that are kept.
fn kept(world: &World) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(cache(world)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    paths
}

/// Runs a module, and gives the file that was kept of it.
fn keep(world: &World, module: &Path, status: i32) -> PathBuf {
    let before = kept(world);
    assert_eq!(run(world, module).code, status);
    let mut new = kept(world);
    new.retain(|path| !before.contains(path));
    assert_eq!(new.len(), 1, "{new:?}");
    new.remove(0)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
fn what_was_compiled_is_run_again() {
    let world = World::new();
    let quiet = quiet(&world);
    let of_quiet = keep(&world, &quiet, 0);
    assert_eq!((mode(&cache(&world)), mode(&of_quiet)), (0o700, 0o600));
    let inode = |path: &Path| fs::metadata(path).expect("it is there").ino();
    let first = inode(&of_quiet);
    assert_eq!(run(&world, &quiet).code, 0);
    assert_eq!(inode(&of_quiet), first);

    // Code of another module in its place shows what is run.
    let of_trapping = keep(&world, &trapping(&world), TRAPPED);
    let code = fs::read(&of_trapping).expect("the code");
    fs::write(&of_quiet, &code).expect("other code");
    assert_eq!(run(&world, &quiet).code, TRAPPED);

    // Others may have written it, or it is not what was kept: it is compiled anew.
    let expect_anew = |what: &str| {
        assert_eq!(run(&world, &quiet).code, 0, "{what}");
        assert_eq!(mode(&of_quiet), 0o600, "{what}");
        assert_eq!(kept(&world).len(), 2, "{what}");
        fs::write(&of_quiet, &code).expect("other code");
        assert_eq!(run(&world, &quiet).code, TRAPPED, "{what}");
    };
    fs::set_permissions(&of_quiet, Permissions::from_mode(0o620)).expect("another mode");
    expect_anew("writable by a group");
    fs::write(&of_quiet, &code[..code.len() - 1]).expect("less");
    expect_anew("a byte less");
    let mut changed = code.clone();
    changed[code.len() / 2] ^= 0x10;
    fs::write(&of_quiet, changed).expect("changed");
    expect_anew("a bit changed");
    fs::write(&of_quiet, "").expect("nothing");
    expect_anew("empty");
    let own = world.uid();
    if Uid::effective().is_root() {
        chown(&of_quiet, Some(0), None).expect("root's");
        expect_anew("another owner's");
        assert_eq!(fs::metadata(&of_quiet).expect("it is there").uid(), own);
    }
}

#[test]
fn modules_run_where_nothing_can_be_kept() {
    let world = World::new();
    let quiet = quiet(&world);
    // The libraries are unpacked afterwards.
    assert_eq!(run(&world, &quiet).code, 0);
    let expect_nothing_kept = |what: &str, expected: usize| {
        assert_eq!(run(&world, &quiet).code, 0, "{what}");
        assert_eq!(kept(&world).len(), expected, "{what}");
    };
    fs::remove_file(&kept(&world)[0]).expect("a file");
    fs::set_permissions(cache(&world), Permissions::from_mode(0o500)).expect("another mode");
    expect_nothing_kept("an unwritable directory", 0);
    fs::set_permissions(cache(&world), Permissions::from_mode(0o777)).expect("another mode");
    expect_nothing_kept("a directory that others may write", 0);
    fs::set_permissions(cache(&world), Permissions::from_mode(0o700)).expect("another mode");
    fs::remove_dir(cache(&world)).expect("an empty directory");
    let elsewhere = world.home().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    fs::set_permissions(&elsewhere, Permissions::from_mode(0o700)).expect("another mode");
    chown(&elsewhere, Some(world.uid()), None).expect("the user's own");
    symlink(&elsewhere, cache(&world)).expect("a link");
    expect_nothing_kept("a symbolic link", 0);
    fs::remove_file(cache(&world)).expect("a link");
    fs::write(cache(&world), "").expect("a file");
    expect_nothing_kept("a file", 0);
    if Uid::effective().is_root() {
        fs::remove_file(cache(&world)).expect("a file");
        fs::create_dir(cache(&world)).expect("root's");
        fs::set_permissions(cache(&world), Permissions::from_mode(0o700)).expect("another mode");
        expect_nothing_kept("another user's", 0);
    }
}

#[test]
fn many_runs_at_once_keep_one() {
    let world = World::new();
    let quiet = quiet(&world);
    let runs: Vec<Program> = (0..6)
        .map(|_| Program::on_pipes(world.bpftime(&["run".as_ref(), quiet.as_os_str()])))
        .collect();
    for run in runs {
        assert_eq!(run.finish().code, 0);
    }
    assert_eq!(kept(&world).len(), 1);
}
