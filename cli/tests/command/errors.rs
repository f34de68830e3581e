//! Every refusal of `load` and `start`, word for word: one line on stderr,
//! the exit status, and nothing left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::common::{Place, can, check, exists, installed, is_root};

const MAIN: &str = "int main(void) { return 0; }\n";

/// `start` and `load` say the same about `program`, and unpack nothing.
#[track_caller]
fn refuses(place: &Place, program: &str, status: i32, stderr: &str) {
    refuses_to(&["start", "load"], place, program, status, stderr);
}

fn refuses_to(subcommands: &[&str], place: &Place, program: &str, status: i32, stderr: &str) {
    for subcommand in subcommands {
        check(
            &mut place.bpftime([subcommand, program]),
            status,
            "",
            stderr,
        );
    }
    assert!(
        !exists(&place.path("state")),
        "a refused command leaves no state"
    );
    assert!(
        !exists(&place.path("sessions")),
        "a refused command leaves no session"
    );
}

#[test]
fn what_does_not_exist() {
    let place = Place::new();
    refuses(
        &place,
        "./missing",
        127,
        "bpftime: ./missing: no such file: check the path\n",
    );
    refuses(
        &place,
        "no-such-command",
        127,
        "bpftime: no-such-command: command not found: check the spelling, or give the program's path\n",
    );
}

#[test]
fn what_cannot_be_executed() {
    let place = Place::new();
    place.file("notes.txt", "hello\n", 0o644);
    refuses(
        &place,
        "./notes.txt",
        126,
        "bpftime: ./notes.txt: not executable: make it so (chmod +x ./notes.txt) or name another program\n",
    );
    refuses(
        &place,
        "/tmp",
        126,
        "bpftime: /tmp: is a directory: name a program\n",
    );
    place.file("data", "hello\n", 0o755);
    refuses(
        &place,
        "./data",
        126,
        "bpftime: ./data: not a program: neither an ELF file nor a script with a #! line: name another program\n",
    );
    place.file("broken", b"\x7fELF\x02\x01\x01", 0o755);
    refuses(
        &place,
        "./broken",
        126,
        "bpftime: ./broken: a damaged ELF file: build or install it again\n",
    );
}

#[test]
fn scripts_are_followed_to_their_interpreter() {
    let place = Place::new();
    place.file("orphan", "#!/no/such/shell -e\n", 0o755);
    refuses(
        &place,
        "./orphan",
        127,
        "bpftime: ./orphan: its interpreter /no/such/shell does not exist: install it, or correct the first line of ./orphan\n",
    );
    place.file("empty", "#!\n", 0o755);
    refuses(
        &place,
        "./empty",
        126,
        "bpftime: ./empty: its #! line names no interpreter: correct its first line\n",
    );
    let loops = place.path("loops");
    place.file("loops", format!("#!{}\n", loops.display()), 0o755);
    refuses(
        &place,
        "./loops",
        126,
        "bpftime: ./loops: its interpreters are scripts themselves, too many of them: name the program itself\n",
    );
    place.compile("gcc", &["-static"], "static", MAIN);
    let interpreter = place.path("static");
    place.file("script", format!("#! {}\n", interpreter.display()), 0o755);
    let line = format!(
        "bpftime: {}: statically linked: nothing to preload: use a dynamically linked build of it\n",
        interpreter.display()
    );
    refuses_to(&["start"], &place, "./script", 126, &line);
}

#[test]
fn programs_that_nothing_can_be_preloaded_into() {
    let place = Place::new();
    for (name, flag) in [("static", "-static"), ("static-pie", "-static-pie")] {
        place.compile("gcc", &[flag], name, MAIN);
        refuses_to(
            &["start"],
            &place,
            &format!("./{name}"),
            126,
            &format!(
                "bpftime: ./{name}: statically linked: nothing to preload: use a dynamically linked build of it\n"
            ),
        );
    }
    place.file("m32.s", ".globl _start\n_start: int3\n", 0o644);
    let object = Command::new("gcc")
        .args(["-m32", "-nostdlib", "-static", "-o", "m32", "m32.s"])
        .current_dir(place.path(""))
        .status()
        .expect("run gcc");
    assert!(object.success());
    refuses(
        &place,
        "./m32",
        126,
        "bpftime: ./m32: a 32-bit program: use a 64-bit (x86-64) build of it\n",
    );

    place.compile(
        "gcc",
        &["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"],
        "musl",
        MAIN,
    );
    // `load` answers its system calls from outside.
    refuses_to(
        &["start"],
        &place,
        "./musl",
        126,
        "bpftime: ./musl: linked against musl libc: use a build of it for glibc\n",
    );

    place.compile(
        "gcc",
        &["-Wl,--dynamic-linker=/opt/none/ld.so"],
        "other",
        MAIN,
    );
    refuses(
        &place,
        "./other",
        127,
        "bpftime: ./other: its dynamic loader /opt/none/ld.so does not exist: install the C library it was built for\n",
    );

    let main = place.compile("gcc", &[], "arm", MAIN);
    let mut bytes = fs::read(main).expect("the program");
    bytes[18..20].copy_from_slice(&183u16.to_le_bytes()); // e_machine = EM_AARCH64
    place.file("arm", bytes, 0o755);
    refuses(
        &place,
        "./arm",
        126,
        "bpftime: ./arm: built for another processor: use an x86-64 build of it\n",
    );

    place.compile("gcc", &["-c"], "object", MAIN);
    fs::set_permissions(place.path("object"), fs::Permissions::from_mode(0o755)).expect("chmod");
    refuses(
        &place,
        "./object",
        126,
        "bpftime: ./object: an ELF file but not a program: link it first, or name another program\n",
    );
}

#[test]
fn programs_that_change_privileges() {
    if !can("needs root and setpriv", is_root() && installed("setpriv")) {
        return;
    }
    let place = Place::new();
    place.compile("gcc", &[], "suid", MAIN);
    fs::set_permissions(place.path("suid"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    place.compile("gcc", &[], "sgid", MAIN);
    fs::set_permissions(place.path("sgid"), fs::Permissions::from_mode(0o2755)).expect("chmod");
    let bpftime = place.file(
        "bpftime",
        fs::read(env!("CARGO_BIN_EXE_bpftime")).expect("bpftime"),
        0o755,
    );
    let check_as_user = |program: &str, line: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&bpftime)
            .args(["start", program])
            .current_dir(place.path(""))
            .env("BPFTIME_STATE_DIR", place.path("state"));
        check(&mut command, 126, "", line);
    };
    check_as_user(
        "./suid",
        "bpftime: ./suid: set-user-ID: such programs ignore preloaded libraries: run it as its owner (root)\n",
    );
    check_as_user(
        "./sgid",
        "bpftime: ./sgid: set-group-ID: such programs ignore preloaded libraries: use a copy of it without that bit\n",
    );
    place.compile("gcc", &[], "capable", MAIN);
    let set = Command::new("setcap")
        .arg("cap_net_raw+ep")
        .arg(place.path("capable"))
        .status();
    if can(
        "needs setcap and a file system that keeps capabilities",
        set.is_ok_and(|status| status.success()),
    ) {
        check_as_user(
            "./capable",
            "bpftime: ./capable: has file capabilities: such programs ignore preloaded libraries: use a copy of it without them\n",
        );
    }
}

#[test]
fn directories_that_cannot_be_used() {
    let place = Place::new();
    place.file("file", "", 0o644);
    let file = place.path("file");
    check(
        place
            .bpftime(["start", "true"])
            .env("BPFTIME_STATE_DIR", file.join("state")),
        1,
        "",
        &format!(
            "bpftime: {}/state: state directory not writable (Not a directory): set BPFTIME_STATE_DIR to a directory of your own\n",
            file.display()
        ),
    );
    check(
        place
            .bpftime(["load", "true"])
            .env("BPFTIME_SESSION_DIR", file.join("sessions")),
        1,
        "",
        &format!(
            "bpftime: {}/sessions: session directory not writable (Not a directory): set BPFTIME_SESSION_DIR to a directory of your own\n",
            file.display()
        ),
    );
    check(
        place
            .bpftime(["load", "true"])
            .env("BPFTIME_SESSION_DIR", &file),
        1,
        "",
        &format!(
            "bpftime: {}: session directory is not a directory: remove it, or set BPFTIME_SESSION_DIR to another one\n",
            file.display()
        ),
    );
    let open = place.path("open");
    fs::create_dir(&open).expect("mkdir");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("chmod");
    check(
        place
            .bpftime(["start", "true"])
            .env("BPFTIME_STATE_DIR", &open),
        1,
        "",
        &format!(
            "bpftime: {}: state directory can be written by others: remove it, or set BPFTIME_STATE_DIR to a directory of your own\n",
            open.display()
        ),
    );
    // Who made the link could let it lead to other libraries later.
    let link = place.path("link");
    std::os::unix::fs::symlink(place.path("."), &link).expect("symlink");
    check(
        place
            .bpftime(["start", "true"])
            .env("BPFTIME_STATE_DIR", &link),
        1,
        "",
        &format!(
            "bpftime: {}: state directory is not a directory: remove it, or set BPFTIME_STATE_DIR to a directory of your own\n",
            link.display()
        ),
    );
    let spaced = place.path("my state");
    let output = place
        .bpftime(["start", "true"])
        .env("BPFTIME_STATE_DIR", &spaced)
        .output()
        .expect("run bpftime");
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        line.ends_with(
            "/libbpftime-agent.so: a path with a space or colon cannot be preloaded: set BPFTIME_STATE_DIR to a directory without them\n"
        ),
        "{line}"
    );
}

#[test]
fn files_that_may_not_be_large_enough() {
    let place = Place::new();
    let (state, sessions) = (place.path("state"), place.path("sessions"));
    let limited = |words: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("ulimit -f 0; exec \"$0\" {words}")])
            .arg(place.bpftime([""; 0]).get_program())
            .env("BPFTIME_STATE_DIR", &state)
            .env("BPFTIME_SESSION_DIR", &sessions);
        command
    };
    check(
        &mut limited("start true"),
        1,
        "",
        &format!(
            "bpftime: {}: the limit on file sizes (ulimit -f) does not allow for bpftime's libraries: raise it, or run a bpftime command once without it\n",
            state.display()
        ),
    );
    let mut unlimited = place.bpftime(["start", "true"]);
    unlimited.env("BPFTIME_STATE_DIR", &state);
    check(&mut unlimited, 0, "", "");
    // No roster can be made: it runs untraced.
    for file in fs::read_dir(&state).expect("a directory").flatten() {
        if file.path().is_file() {
            fs::remove_file(file.path()).expect("it is ours");
        }
    }
    check(&mut limited("start true"), 0, "", "");
    check(
        &mut limited("load true"),
        1,
        "",
        &format!(
            "bpftime: {}: the limit on file sizes (ulimit -f) does not allow for a session: raise it\n",
            place.path("").display().to_string().trim_end_matches('/')
        ),
    );
}

/// A tmpfs of our own plays the full /dev/shm and the noexec home.
#[test]
fn file_systems_that_cannot_be_used() {
    if !can("needs root and unshare", is_root() && installed("unshare")) {
        return;
    }
    let place = Place::new();
    let mount = place.path("mount");
    fs::create_dir(&mount).expect("mkdir");
    let in_mount = |options: &str, script: &str| {
        let mut command = place.bpftime([""; 0]);
        let bpftime = command.get_program().to_owned();
        command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg(format!(
                "mount -t tmpfs -o {options} none {} && {script}",
                mount.display()
            ))
            .env("bpftime", bpftime)
            .env("mount", &mount)
            .env("BPFTIME_STATE_DIR", place.path("state"));
        command
    };
    check(
        &mut in_mount(
            "size=512k",
            "export BPFTIME_SESSION_DIR=$mount/sessions; $bpftime load true; status=$?; ls -A $mount; exit $status",
        ),
        1,
        "",
        &format!(
            "bpftime: {}: full: no room for a session: remove files from it, or set BPFTIME_SESSION_DIR to a directory with room\n",
            mount.display()
        ),
    );
    check(
        &mut in_mount(
            "noexec",
            "BPFTIME_STATE_DIR=$mount/state exec $bpftime start true",
        ),
        1,
        "",
        &format!(
            "bpftime: {}/state: state directory is mounted noexec, so no library in it can be loaded: set BPFTIME_STATE_DIR to a directory on another file system\n",
            mount.display()
        ),
    );
}
