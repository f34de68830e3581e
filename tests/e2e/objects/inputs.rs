//! What cannot be run is refused in one line that says what and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use bpftime_tests::World;

use super::text;

const NAME_A_FILE: &str = "name an object file, a Wasm module or a package";
const COMPILE: &str = "compile it with clang -O2 -g -target bpf -c";

/// Runs it with these words, of which `{file}` is `file`, and expects one line,
/// nothing on stdout and this status.
fn refused(world: &World, words: &[&str], file: &str, code: i32, line: &str) {
    let fill = |text: &str| text.replace("{file}", file);
    let words = ["run"].iter().chain(words).map(|word| fill(word));
    let exit = world.run(&words.collect::<Vec<_>>());
    assert_eq!(
        (exit.code, exit.stdout.as_str(), exit.stderr.as_str()),
        (code, "", format!("bpftime: {}\n", fill(line)).as_str())
    );
}

#[test]
fn files_that_are_no_objects() {
    let world = World::new();
    let object = fs::read(world.fixture("kinds.bpf.o")).expect("the object");
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = world.home().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    };
    let locked = file("locked", &object);
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).expect("a mode");
    let compile_big = "compile it with clang -O2 -g -target bpfel -c";
    for (path, line) in [
        (PathBuf::from("/no/such.o"), format!("{{file}}: cannot be read (No such file or directory): {NAME_A_FILE}")),
        (PathBuf::from("/bin/true"), "{file}: is a program or library of this machine, not an eBPF object: run a tool by bpftime load, a program to trace by bpftime start".to_owned()),
        (PathBuf::from("/"), format!("/: is a directory: {NAME_A_FILE}")),
        (PathBuf::from("/dev/zero"), format!("/dev/zero: is a device: {NAME_A_FILE}")),
        (locked, format!("{{file}}: cannot be read (Permission denied): {NAME_A_FILE}")),
        (file("empty", b""), format!("{{file}}: is empty: {NAME_A_FILE}")),
        (file("head.o", &object[..200]), format!("head: is no object of eBPF programs (Invalid argument): {COMPILE}")),
        (file("half.o", &object[..object.len() / 2]), format!("half: is no object of eBPF programs (Invalid argument): {COMPILE}")),
        (world.fixture("wrong_endian.bpf.o"), format!("{{file}}: is an eBPF object for big-endian machines: {compile_big}")),
        (world.fixture("wrong_NOTHING.bpf.o"), "wrong_NOTHING: has no programs: write a function with SEC(\"uprobe\") or the like".to_owned()),
    ] {
        refused(&world, &["{file}"], text(&path), 1, &line);
    }
}

#[test]
fn programs_that_are_refused() {
    let world = World::new();
    let log = "--verbose shows the verifier's log";
    for (name, line) in [
        ("wrong_SECTION", "nothing: section \"nosuch/thing\": names no type of program: --without nothing, or spell the section as libbpf does".to_owned()),
        ("wrong_LICENCE", format!("free_of: section \"uprobe//bin/true:f\": the verifier refuses it: cannot call GPL-restricted function from non-GPL compatible program: {log}")),
        ("wrong_LARGE", "wrong_LARGE: map large failed to create (Argument list too long): give it fewer max_entries".to_owned()),
        ("refused", format!("wild: section \"uprobe//bin/true:f\": the verifier refuses it: R0 invalid mem access 'scalar': {log}")),
    ] {
        let object = world.fixture(&format!("{name}.bpf.o"));
        refused(&world, &["{file}"], text(&object), 1, &line);
    }
}

#[test]
fn words_that_make_no_sense() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let object = text(&object);
    let of_user = world.uid() != 0;
    let or_off = "--attach on_call=TARGET, or on_call=off";
    let nowhere = format!(
        "on_call: section \"uprobe\" does not say where: name PATH:FUNCTION[+OFFSET]: {or_off}"
    );
    let no_place = format!("on_call: \"x\" is no PATH:FUNCTION[+OFFSET]: {or_off}");
    let names = "names no program of the object: its programs are on_call";
    let list = "see the list by --help";
    let numbers = "a number from -2147483648 to 2147483647 is wanted";
    let table: [(&[&str], i32, String); 12] = [
        (&["{file}"], 1, nowhere),
        (&["--attach", "on_call=x", "{file}"], 1, no_place),
        (&["--attach", "no_call=x:y", "{file}"], 1, format!("--attach no_call=x:y: {names}")),
        (&["--attach", "on_call", "{file}"], 1, format!("--attach on_call: {names}")),
        (&["--without", "no_call", "{file}"], 1, format!("--without no_call: {names}")),
        (&["--type", "nothing", "{file}"], 2, "--type nothing: names no structure of the object: name a structure of the object, without the word struct".to_owned()),
        (&["--pid", "4194304", "{file}"], 1, "4194304: no such process: check the process id (pidof NAME, ps)".to_owned()),
        (&["--btf", "/no/such", "{file}"], 1, format!("/no/such: cannot be read (No such file or directory): {NAME_A_FILE}")),
        (&["--btf", "/etc/passwd", "{file}"], 1, "/etc/passwd: has no types (BTF): name a copy of some /sys/kernel/btf/vmlinux".to_owned()),
        (&["{file}", "--least", "2147483648"], 2, format!("--least 2147483648: {numbers}: {list}")),
        (&["{file}", "--least", "many"], 2, format!("--least many: {numbers}: {list}")),
        (&["{file}", "--prefix", "12345678"], 2, format!("--prefix 12345678: at most 7 bytes fit: {list}")),
    ];
    for (words, code, line) in table {
        refused(&world, words, object, code, &line);
    }
    if of_user {
        let line = "1: no permission to attach: it belongs to root: run bpftime as root";
        refused(&world, &["--pid", "1", "{file}"], object, 1, line);
    }
}

#[test]
fn places_that_are_not_there() {
    let world = World::new();
    let reports = world.fixture("reports.bpf.o");
    let path = world.fixture("tgt");
    let path = text(&path);
    let advice = "--attach on_call=TARGET, or on_call=off";
    let says = "(No such file or directory): --verbose shows what libbpf says";
    for (target, line) in [
        (
            format!("{path}:nobody"),
            format!("on_call: {path} has no function nobody: {advice}"),
        ),
        (
            "/no/such:nobody".to_owned(),
            format!(
                "on_call: cannot be attached to /no/such:nobody: failed to open /no/such {says}"
            ),
        ),
    ] {
        let attach = format!("on_call={target}");
        refused(
            &world,
            &["--attach", &attach, "{file}"],
            text(&reports),
            1,
            &line,
        );
    }
    let kinds = world.fixture("kinds.bpf.o");
    let all = [
        "on_entry",
        "on_return",
        "on_many",
        "on_many_returns",
        "on_static",
        "tail",
    ];
    for (program, target, lacks) in [
        ("on_many", "nobody_*", "functions nobody_*"),
        ("on_static", "tgt:nobody", "static probe tgt:nobody"),
    ] {
        let off: Vec<String> = all.iter().map(|name| format!("{name}=off")).collect();
        let mut words: Vec<&str> = off.iter().flat_map(|words| ["--attach", words]).collect();
        let attach = format!("{program}={path}:{target}");
        words.extend(["--attach", &attach, "{file}"]);
        let line = format!(
            "{program}: {path} has no {lacks}: --attach {program}=TARGET, or {program}=off"
        );
        refused(&world, &words, text(&kinds), 1, &line);
    }
}

#[test]
fn options_that_make_no_sense() {
    let world = World::new();
    let object = world.fixture("reports.bpf.o");
    let object = text(&object);
    for words in [
        ["--interval", "-1", object],
        ["--interval", "nan", object],
        [object, "--most", "1"],
    ] {
        let exit = world.run(&["run", words[0], words[1], words[2]]);
        assert_eq!((exit.code, exit.stdout.as_str()), (2, ""), "{words:?}");
        let last = exit.stderr.lines().last();
        assert_eq!(
            last,
            Some("For more information, try '--help'."),
            "{words:?}"
        );
    }
}
