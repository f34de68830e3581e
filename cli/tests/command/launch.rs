//! What `load` and `start` exec is the program as the user would start it:
//! same process, arguments, signals, environment and exit status.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::common::{Place, check};

#[test]
fn output_and_exit_status_are_the_programs_own() {
    let place = Place::new();
    for subcommand in ["start", "load"] {
        check(
            &mut place.bpftime([subcommand, "sh", "-c", "echo out; echo err >&2; exit 7"]),
            7,
            "out\n",
            "err\n",
        );
        let mut child = place.bpftime([subcommand, "sh", "-c", "echo $$"]);
        let child = child
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("run bpftime");
        let id = child.id();
        let output = child.wait_with_output().expect("its output");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!("{id}\n"),
            "exec keeps the process id"
        );
        let killed = place
            .bpftime([subcommand, "sh", "-c", "kill -USR1 $$"])
            .status()
            .expect("run bpftime");
        assert_eq!(killed.signal(), Some(libc::SIGUSR1));
    }
}

/// Ignored and blocked signals of a process started by `command`, without
/// the two that glibc uses itself as soon as there is a thread.
fn signals(mut command: Command) -> Vec<u64> {
    let output = command
        .args(["-E", "^Sig(Ign|Blk)", "/proc/self/status"])
        .output()
        .expect("run grep");
    let glibc = 1 << 31 | 1 << 32;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let masks = lines
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    masks.map(|mask| mask & !glibc).collect()
}

#[test]
fn signal_dispositions_and_mask_are_inherited_unchanged() {
    let place = Place::new();
    let plain = signals(Command::new("grep"));
    assert_eq!(plain.len(), 2);
    for subcommand in ["start", "load"] {
        assert_eq!(signals(place.bpftime([subcommand, "grep"])), plain);
    }
}

#[test]
fn the_users_own_preload_stays_first() {
    let place = Place::new();
    place.compile("gcc", &["-shared", "-fPIC"], "own.so", "int own;\n");
    let own = place.path("own.so");
    let output = place
        .bpftime([
            "start",
            "sh",
            "-c",
            "echo \"$LD_PRELOAD\"; grep -c own.so /proc/self/maps >&2",
        ])
        .env("LD_PRELOAD", &own)
        .output()
        .expect("run bpftime");
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        list.starts_with(&format!(
            "{}:{}/lib-",
            own.display(),
            place.path("state").display()
        )),
        "{list}"
    );
    assert!(list.ends_with("/libbpftime-agent.so\n"), "{list}");
    assert_ne!(
        String::from_utf8_lossy(&output.stderr),
        "0\n",
        "ld.so loaded it"
    );
}

#[test]
fn libraries_are_private_and_repaired_under_concurrent_starts() {
    let place = Place::new();
    let start = || place.bpftime(["start", "true"]);
    assert!(start().status().expect("run bpftime").success());
    let libs = fs::read_dir(place.path("state")).expect("the state directory");
    let lib = libs
        .map(|entry| entry.expect("an entry").path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("lib-"))
        })
        .expect("the library directory");
    let agent = lib.join("libbpftime-agent.so");
    let mode = |path: &std::path::Path| {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o7777
    };
    assert_eq!(
        (mode(&place.path("state")), mode(&lib), mode(&agent)),
        (0o700, 0o700, 0o700)
    );
    let good = fs::read(&agent).expect("the agent");
    for _ in 0..5 {
        // Replaced, not truncated: who has it mapped keeps the old one.
        fs::remove_file(&agent).expect("remove");
        fs::write(&agent, b"garbage").expect("write");
        let children: Vec<_> = (0..8)
            .map(|_| start().spawn().expect("run bpftime"))
            .collect();
        for mut child in children {
            assert!(child.wait().expect("its status").success());
        }
        assert!(fs::read(&agent).expect("the agent") == good, "repaired");
    }
    let mut names: Vec<_> = fs::read_dir(&lib)
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "bpftime",
            "libbpftime-agent.so",
            "libbpftime-syscall-server.so"
        ],
        "no temporary file stays"
    );
}
