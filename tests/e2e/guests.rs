//! The kits for guests: their examples are built as a user would, and run in
//! user space as an ordinary user and in the kernel as root; bindings of odd
//! structures are compared with what programs' compiler makes of them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpftime_tests::{Mode, Program, World};
use tempfile::TempDir;

use crate::oracle::same;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs a command of the developer's to its end.
fn done(command: &mut Command) {
    let output = command.output().expect("a command to build with");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// An example of the kit, built as its user would.
struct Example {
    module: PathBuf,
    _out: TempDir,
}

impl Example {
    fn build(name: &str) -> Example {
        let out = tempfile::Builder::new().prefix("bpftime-guests-").tempdir();
        let out = out.expect("a directory");
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(out.path(), readable).expect("a directory of ours");
        let module = out.path().join(name);
        done(
            Command::new("make")
                .args(["-s", "-C"])
                .arg(repository("wasm/guest/examples"))
                .arg(format!("OUT={}", out.path().display()))
                .arg(format!("BPFTIME={}", World::new().binary().display()))
                .arg(format!("CARGO={}", env!("CARGO")))
                .arg(&module)
                .env_remove("MAKEFLAGS"),
        );
        Example { module, _out: out }
    }
}

/// `bpftime run` in this world, with programs where the world has them.
fn run<S: AsRef<OsStr>>(world: &World, words: &[S]) -> Command {
    if world.mode() == Mode::Bpftime {
        let mut command = world.bpftime(&["run"]);
        command.args(words);
        return command;
    }
    let mut command = world.tool(&[world.binary()]);
    command.args(["run", "--runtime", "kernel"]).args(words);
    command
}

/// What a guest says of the calls of `tgt_add` with first arguments from 2 on.
fn calls(world: &World, example: &Example) -> String {
    let target = world.fixture("tgt");
    let place = format!("{}:tgt_add", target.display());
    let words = [
        example.module.as_os_str(),
        place.as_ref(),
        "3".as_ref(),
        "2".as_ref(),
    ];
    let mut guest = Program::on_pipes(run(world, &words));
    assert_eq!(guest.line(), "attached");
    let started = world.start(&[target.as_os_str(), "5".as_ref(), "0".as_ref()]);
    let pid = started.pid();
    assert_eq!(started.finish().code, 0);
    let exit = guest.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    // The second argument is an address.
    let lines = exit.stdout.lines().filter(|line| *line != "attached");
    let lines = lines.map(|line| line.split(',').next().unwrap_or("").to_owned());
    let said: Vec<String> = lines.collect();
    said.join("\n").replace(&pid.to_string(), "PID")
}

#[test]
fn calls_of_a_function_to_a_guest_in_c() {
    let example = Example::build("calls.wasm");
    let said = same(|world| calls(world, &example));
    assert_eq!(said, "PID tgt(2\nPID tgt(3\nPID tgt(4\nleft out: 2");
}

#[test]
fn calls_of_a_function_to_a_guest_in_rust() {
    let example = Example::build("calls-rust.wasm");
    let said = same(|world| calls(world, &example));
    assert_eq!(said, "PID tgt(2\nPID tgt(3\nPID tgt(4\nleft out: 2");
}

#[test]
fn files_that_a_process_opens() {
    let example = Example::build("opensnoop.wasm");
    let said = same(|world| {
        // The kernel sees everybody's calls.
        let name = format!("gc{}", std::process::id());
        let cat = world.home().join(&name);
        fs::copy("/bin/cat", &cat).expect("a copy of cat");
        let [here, missing, end] = ["here", "missing", "end"].map(|file| world.home().join(file));
        fs::write(&here, "").expect("a file");
        let words = [example.module.as_os_str(), name.as_ref(), end.as_os_str()];
        let mut guest = Program::on_pipes(run(world, &words));
        guest.lines_until(|line| line.starts_with("PID "));
        let started = world.start(&[&cat, &here, &missing, &end]);
        let by = format!("{:<8} {name:<16}", started.pid());
        assert_eq!(started.finish().code, 1);
        let exit = guest.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
        let home = format!("{}/", world.home().display());
        let lines = exit.stdout.lines().filter(|line| line.contains(&home));
        let lines = lines.map(|line| line.replace(&by, "BY").replace(&home, ""));
        // Which number a file gets depends on what the agent's thread has open.
        let opened = |line: &str| line.ends_with(" here") && !line.contains('-');
        let lines = lines.map(|line| match opened(&line) {
            true => "BY   fd here\n".to_owned(),
            false => line + "\n",
        });
        lines.collect()
    });
    assert_eq!(said, "BY   fd here\nBY   -2 missing\nBY   -2 end\n");
}

#[test]
fn packets_of_an_interface() {
    let Some(world) = World::kernel() else {
        return;
    };
    let example = Example::build("packets.wasm");
    let guest = run(
        &world,
        &[
            example.module.as_os_str(),
            "lo".as_ref(),
            "1".as_ref(),
            "3".as_ref(),
        ],
    );
    // A network of its own, with nobody else's packets.
    let mut command = Command::new("unshare");
    command
        .args(["-n", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"])
        .arg(guest.get_program())
        .args(guest.get_args())
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
    let mut guest = Program::on_pipes(command);
    assert_eq!(guest.line(), "counting");
    // Nobody listens, so that each is answered by ICMP.
    done(
        Command::new("nsenter")
            .args(["-n", "-t", &guest.pid().to_string(), "bash", "-c"])
            .arg("for i in 1 2 3; do echo $i > /dev/udp/127.0.0.1/9; done"),
    );
    let exit = guest.finish();
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
    let last: Vec<&str> = exit.stdout.lines().rev().take(2).collect();
    assert_eq!(last, ["protocol 17: 3", "protocol 1: 3"]);
}

#[test]
fn packets_without_privilege() {
    let world = World::new();
    let example = Example::build("packets.wasm");
    let exit =
        Program::on_pipes(run(&world, &[example.module.as_os_str(), "lo".as_ref()])).finish();
    assert_eq!((exit.code, exit.stdout.as_str()), (1, ""));
    let reason = "only the kernel hosts xdp programs, which takes CAP_BPF and CAP_PERFMON";
    for words in ["count_packets", reason] {
        assert!(exit.stderr.contains(words), "{}", exit.stderr);
    }
}

/// A compiler for programs and guests.
fn clang() -> Command {
    let known = ["clang-19", "clang-18", "clang-17", "clang-16", "clang-15"];
    let found = |name: &&&str| Command::new(name).arg("--version").output().is_ok();
    Command::new(known.iter().find(found).copied().unwrap_or("clang"))
}

/// A guest's object in the world's home, with headers and bindings beside it.
fn object(world: &World, name: &str) -> PathBuf {
    let object = world.home().join(format!("{name}.bpf.o"));
    let source = format!("fixtures/guests/{name}.bpf.c");
    let system = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    done(
        clang()
            .args(["-target", "bpf", "-O2", "-g", "-Wall", "-c", "-o"])
            .args([&object, &repository(&source)])
            .args(["-D__TARGET_ARCH_x86", "-I", &system]),
    );
    let file = object.to_str().expect("a path of ours");
    for (words, to) in [
        (
            &["gen", "skeleton", "--wasm", "--types", file][..],
            format!("{name}.skel.h"),
        ),
        (
            &["gen", "types", "--rust", file],
            format!("{name}.types.rs"),
        ),
        (&["gen", "header", "--wasm"], "libbpf-wasm.h".to_owned()),
    ] {
        let exit = world.run(words);
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{words:?}");
        fs::write(world.home().join(to), exit.stdout).expect("a file in a home of ours");
    }
    object
}

/// A guest in C that is built with what [`object`] has made.
fn module(world: &World, name: &str) -> PathBuf {
    let module = world.home().join(format!("{name}.wasm"));
    let source = repository(&format!("fixtures/guests/{name}.c"));
    done(
        clang()
            .args(["--target=wasm32-wasi", "-O2", "-Wall", "-Wextra", "-Werror"])
            .arg("-I")
            .args([world.home(), &source])
            .arg("-o")
            .arg(&module),
    );
    module
}

#[test]
fn structures_lie_in_c_as_programs_have_them() {
    let world = World::new();
    object(&world, "zoo");
    // Members that do not lie where BTF says do not compile.
    let module = module(&world, "zoo");
    let exit = Program::on_pipes(run(&world, &[module])).finish();
    let expected = "numbers: same, 80 bytes\npointers: same, 72 bytes\nnested: same, 128 bytes\n\
                    bits: same, 24 bytes\ntight: same, 25 bytes\nwide: same, 64 bytes\n\
                    barely: same, 16 bytes\npadded: same, 128 bytes\neither: same, 32 bytes\n\
                    type: same, 48 bytes\n";
    assert_eq!(
        (exit.code, exit.stdout.as_str()),
        (0, expected),
        "{}",
        exit.stderr
    );
}

#[test]
fn structures_lie_in_rust_as_programs_have_them() {
    let world = World::new();
    object(&world, "zoo");
    let home = world.home();
    fs::copy(repository("fixtures/guests/zoo.rs"), home.join("zoo.rs")).expect("a copy");
    let rustc = || {
        let mut command = Command::new("rustc");
        command.current_dir(home);
        command.args(["--edition", "2024", "--target", "wasm32-wasip1", "-O"]);
        command
    };
    let kit = repository("wasm/guest/rust/src/lib.rs");
    let kit = fs::canonicalize(kit).expect("the kit");
    done(
        rustc()
            .args(["--crate-type", "rlib", "--crate-name", "bpftime_guest"])
            .arg(kit),
    );
    done(rustc().args([
        "-L",
        ".",
        "--extern",
        "bpftime_guest",
        "-Dwarnings",
        "zoo.rs",
    ]));
    let exit = Program::on_pipes(run(&world, &[home.join("zoo.wasm")])).finish();
    let expected = "bits: same, 24 bytes\n-7 true -5 -4000000 -1000\ntight: same, 25 bytes\n\
                    wide: same, 64 bytes\nbarely: same, 16 bytes\neither: same, 32 bytes\n15\n\
                    type: same, 48 bytes\nnumbers: same, 80 bytes\n\
                    [[17, 18, 19], [20, 21, 22]] -12 [102, 111, 117, 114, 0]\n";
    assert_eq!(
        (exit.code, exit.stdout.as_str()),
        (0, expected),
        "{}",
        exit.stderr
    );
}

#[test]
fn maps_in_maps_and_programs_that_are_not_wanted() {
    let built = World::new();
    object(&built, "nests");
    let module = module(&built, "nests");
    let said = same(|world| {
        let target = world.fixture("tgt");
        let place = format!("{}:tgt_add", target.display());
        let mut guest = Program::on_pipes(run(world, &[module.as_os_str(), place.as_ref()]));
        assert_eq!(guest.line(), "ready");
        let mut said = Vec::new();
        for line in [
            "put right",
            "put small",
            "put 0",
            "put 70000",
            "take",
            "take",
            "put left",
        ] {
            let exit = world
                .start(&[target.as_os_str(), "5".as_ref(), "0".as_ref()])
                .finish();
            assert_eq!(exit.code, 0);
            let show = guest.ask("show");
            said.push(format!("{show}; {line}: {}", guest.ask(line)));
        }
        let exit = guest.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
        said.join("\n")
    });
    let expected = "\
2 1 1 1 | 0 0 0 0 | missed 0 others 0; put right: ok
2 1 1 1 | 2 1 1 1 | missed 0 others 0; put small: Invalid argument
2 1 1 1 | 4 2 2 2 | missed 0 others 0; put 0: Bad file descriptor
2 1 1 1 | 6 3 3 3 | missed 0 others 0; put 70000: Bad file descriptor
2 1 1 1 | 8 4 4 4 | missed 0 others 0; take: ok
2 1 1 1 | 8 4 4 4 | missed 5 others 0; take: No such file or directory
2 1 1 1 | 8 4 4 4 | missed 10 others 0; put left: ok";
    assert_eq!(said, expected);
}

#[test]
fn what_cannot_be_made_is_refused_in_one_line() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let object = object.to_str().expect("a path of ours");
    for (words, said) in [
        (
            &["gen", "skeleton", object][..],
            "gen skeleton: makes skeletons for Wasm guests only: give --wasm, or use bpftool gen \
             skeleton for a native tool",
        ),
        (
            &["gen", "skeleton", "--wasm", "/bin/true"],
            "/bin/true: is no object of eBPF programs: compile it with clang -O2 -g -target bpf -c",
        ),
        (
            &["gen", "skeleton", "--wasm", "/nowhere"],
            "/nowhere: cannot be read (No such file or directory): name an object file",
        ),
        (
            &["gen", "skeleton", "--wasm", object, "name", "a-b"],
            "name a-b: does not name a skeleton: write `name` and a word of C behind the file",
        ),
    ] {
        let exit = world.run(words);
        assert_eq!((exit.code, exit.stdout.as_str()), (1, ""), "{words:?}");
        assert_eq!(exit.stderr, format!("bpftime: {said}\n"), "{words:?}");
    }
    let exit = world.run(&["gen", "types", "--wasm", object, "nobody"]);
    let said = "has no type nobody: see bpftool btf dump file for those that it has";
    assert_eq!(exit.stderr, format!("bpftime: {object}: {said}\n"));
}
