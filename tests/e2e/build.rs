//! `bpftime build` and `bpftime new`: what they make of sources, and that it runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use bpftime_tests::{Exit, Program, World};
use serde_json::{Value, json};

const SOURCE: &str = r#"/* A source as packages are made of. */
#include <vmlinux.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "tool.h"

/// Calls of a function
char LICENSE[] SEC("license") = "GPL";

/// @cmdarg {"default": 0, "short": "l", "long": "least"}
/// @description least number
const volatile __u32 least = 0;
const volatile bool twice = false;
/// Not an option of tracers
const volatile pid_t process = 0;

/// @sample {"interval": 100, "type": "log2_hist"}
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, u32);
	__type(value, struct hist);
} hists SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/// @note libc's
SEC("uprobe")
int BPF_KPROBE(on_call, int number)
{
	struct event *event;

	if (number < least)
		return 0;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	event->number = number;
	event->parent = 0;
	event->text[0] = 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/// @tchook {"ifindex":1, "attach_point":"BPF_TC_INGRESS"}
SEC("tc")
int ingress(struct __sk_buff *ctx)
{
	return 0;
}
"#;

const HEADER: &str = r#"struct hist { unsigned int slots[4]; };
struct event {
	int number;
	const void *parent;
	enum kind { FIRST, SECOND } kind;
	char text[8];
};
"#;

/// A directory of the ordinary user with files in it.
fn directory(world: &World, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = world.home().join(name);
    fs::create_dir(&dir).expect("a directory");
    for (file, text) in files {
        fs::write(dir.join(file), text).expect("a file");
    }
    chown(&dir, Some(world.uid()), None).expect("a directory of the user");
    dir
}

/// A `bpftime` command in a directory.
fn bpftime(world: &World, dir: &Path, words: &[&str]) -> Command {
    let mut command = world.bpftime(words);
    command.current_dir(dir);
    command
}

fn run(world: &World, dir: &Path, words: &[&str]) -> Exit {
    Program::on_pipes(bpftime(world, dir, words)).finish()
}

/// Runs a command that must succeed without a word on stderr; its stdout.
fn done(world: &World, dir: &Path, words: &[&str]) -> String {
    let exit = run(world, dir, words);
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{words:?}");
    exit.stdout
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn package(dir: &Path) -> Value {
    serde_json::from_slice(&bytes(&dir.join("package.json"))).expect("JSON")
}

/// Names in a directory, those of hidden files among them.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn output(command: &str, words: &[&str], file: &Path) -> String {
    let path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
    let output = Command::new(command)
        .args(words)
        .arg(file)
        .env("PATH", path)
        .output();
    String::from_utf8(output.expect(command).stdout).expect("text")
}

#[test]
fn an_object_and_a_package_of_a_source() {
    let world = World::new();
    let files = [("tool.bpf.c", SOURCE), ("tool.h", HEADER)];
    let dir = directory(&world, "tool", &files);
    let said = done(&world, &dir, &["build", "tool.bpf.c", "tool.h"]);
    assert_eq!(said, "tool.bpf.o\npackage.json\n");

    let object = dir.join("tool.bpf.o");
    let sections = output("readelf", &["-SW"], &object);
    for section in [
        "license", ".rodata", ".bss", ".maps", "uprobe", "tc", ".BTF", ".BTF.ext",
    ] {
        assert!(
            sections.contains(&format!(" {section} ")),
            "{section}: {sections}"
        );
    }
    assert!(!sections.contains(".debug"), "{sections}");
    let types = output("bpftool", &["btf", "dump", "file"], &object);
    assert!(types.contains("STRUCT 'event' size=32 vlen=4"), "{types}");

    let package = package(&dir);
    let of_object = types
        .lines()
        .find(|line| line.contains("STRUCT 'event' size=32"));
    let id = of_object.and_then(|line| line[1..].split(']').next()?.parse::<u32>().ok());
    let of_hist = types
        .lines()
        .find(|line| line.contains("STRUCT 'hist' size=16"));
    let hist_id = of_hist.and_then(|line| line[1..].split(']').next()?.parse::<u32>().ok());
    let mut exported = package["meta"]["export_types"].clone();
    let sorted = exported.as_array_mut().expect("a list");
    sorted.sort_by_key(|ty| ty["name"].to_string());
    assert_eq!(
        exported,
        json!([
            {"name": "event", "size": 32, "type_id": id, "members": [
                {"name": "number", "type": "int"},
                {"name": "parent", "type": "void *"},
                {"name": "kind", "type": "enum kind"},
                {"name": "text", "type": "char[8]"},
            ]},
            {"name": "hist", "size": 16, "type_id": hist_id, "members": [
                {"name": "slots", "type": "unsigned int[4]"},
            ]},
        ])
    );
    assert_eq!(
        package["meta"]["bpf_skel"],
        json!({
            "obj_name": "tool_bpf",
            "doc": {"description": "Calls of a function"},
            "data_sections": [
                {"name": ".rodata", "variables": [
                    {"name": "least", "type": "unsigned int", "description": "least number",
                     "cmdarg": {"default": 0, "short": "l", "long": "least"}},
                    {"name": "twice", "type": "bool"},
                    {"name": "process", "type": "pid_t", "description": "Not an option of tracers"},
                ]},
                {"name": ".bss", "variables": [
                    {"name": "__eunomia_dummy_hist_ptr", "type": "struct hist *"},
                    {"name": "__eunomia_dummy_event_ptr", "type": "struct event *"},
                ]},
            ],
            "maps": [
                {"name": "hists", "ident": "hists", "sample": {"interval": 100, "type": "log2_hist"}},
                {"name": "events", "ident": "events"},
                {"name": "tool_bpf.rodata", "ident": "rodata", "mmaped": true},
                {"name": "tool_bpf.bss", "ident": "bss", "mmaped": true},
            ],
            "progs": [
                {"name": "on_call", "attach": "uprobe", "link": true},
                {"name": "ingress", "attach": "tc", "link": true,
                 "tchook": {"ifindex": 1, "attach_point": "BPF_TC_INGRESS"}},
            ],
        })
    );
    assert_eq!(package["bpf_object_size"], bytes(&object).len());

    // The same again elsewhere, with nothing of where it was made.
    let other = directory(&world, "other", &files);
    done(
        &world,
        &other,
        &["build", "tool.bpf.c", "tool.h", "--output", "out"],
    );
    assert_eq!(names(&other.join("out")), ["package.json", "tool.bpf.o"]);
    for file in ["tool.bpf.o", "package.json"] {
        assert!(
            bytes(&dir.join(file)) == bytes(&other.join("out").join(file)),
            "{file}"
        );
    }
    let home = world.home().to_string_lossy().into_owned();
    let object = String::from_utf8_lossy(&bytes(&object)).into_owned();
    assert!(!object.contains(&home));
}

/// Records of a run, without those of processes by other names.
fn records(exit: &Exit, comm: &str) -> Vec<Value> {
    let lines = exit
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .filter(|record: &Value| record["comm"] == comm)
        .collect()
}

/// `bpftime new`, `bpftime build`, and the run that the README tells of.
fn project(world: &World, template: &str, app: &[&str]) -> Exit {
    let dir = directory(world, "work", &[]);
    let said = done(world, &dir, &["new", "first", "--template", template]);
    assert_eq!(
        said,
        "first: build it by bpftime build first.bpf.c first.h; README.md says how to run it\n"
    );
    let dir = dir.join("first");
    let made = [".gitignore", "README.md", "first.bpf.c", "first.h"];
    assert_eq!(names(&dir), made);
    done(world, &dir, &["build", "first.bpf.c", "first.h"]);
    let mut words = vec!["run", "--json", "first.bpf.o", "--"];
    words.extend(app);
    let exit = run(world, &dir, &words);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (0, "bpftime: attached; Ctrl-C ends\n")
    );
    exit
}

#[test]
fn the_project_of_a_probe_shows_names() {
    let world = World::new();
    let exit = project(&world, "uprobe", &["getent", "ahosts", "localhost"]);
    let records = records(&exit, "getent");
    assert_eq!(records.len(), 1, "{}", exit.stdout);
    assert_eq!(records[0]["name"], "localhost");
}

#[test]
fn the_project_of_a_system_call_shows_files() {
    let world = World::new();
    let exit = project(&world, "syscall", &["cat", "/etc/passwd"]);
    let records = records(&exit, "cat");
    let of_file = records
        .iter()
        .filter(|record| record["path"] == "/etc/passwd");
    assert_eq!(of_file.count(), 1, "{}", exit.stdout);
}

#[test]
fn the_project_of_a_histogram_counts_writes() {
    let world = World::new();
    let app = [
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=1k",
        "count=100",
        "status=none",
    ];
    let exit = project(&world, "histogram", &app);
    let mut slots = [0; 26];
    slots[10] = 100;
    let slots = json!(slots).to_string();
    assert!(exit.stdout.contains(&slots), "{}", exit.stdout);
}

#[test]
fn nobodys_files_are_written_over() {
    let world = World::new();
    let dir = directory(&world, "work", &[("there", "a file")]);
    let exit = run(&world, &dir, &["new", "there"]);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (
            1,
            "bpftime: there: is there already: choose another name, or remove it\n"
        )
    );
    let exit = run(&world, &dir, &["new", "a b"]);
    assert_eq!(
        (exit.code, exit.stderr.as_str()),
        (
            1,
            "bpftime: a b: is no name for a project: use letters, digits, - and _ only\n"
        )
    );
    assert_eq!(names(&dir), ["there"]);
    assert_eq!(bytes(&dir.join("there")), b"a file");
}

#[test]
fn errors_are_told_and_nothing_is_left() {
    let world = World::new();
    let files = [
        ("good.bpf.c", "#include <vmlinux.h>\nint x;\n"),
        ("bad.bpf.c", "#include <vmlinux.h>\nint x = ;\n"),
        ("odd.bpf.c", "int y;\n/// @sample {interval: 1}\nint x;\n"),
        ("lone.bpf.c", "#include \"lone.h\"\n"),
        ("tool.txt", ""),
    ];
    let dir = directory(&world, "work", &files);
    let before = names(&dir);
    let compiler = ["/usr/local/bin", "/usr/bin", "/bin"]
        .iter()
        .find_map(|dir| {
            let clang = format!("{dir}/clang-19");
            Path::new(&clang).exists().then_some(clang)
        });
    let compiler = compiler.expect("clang-19");
    for (words, expected) in [
        (
            vec!["bad.bpf.c"],
            format!(
                "bad.bpf.c:2:9: error: expected expression\n    2 | int x = ;\n      |         ^\n\
                 1 error generated.\n\
                 bpftime: bad.bpf.c: does not compile ({compiler}: exit status: 1): see what clang says\n"
            ),
        ),
        (
            vec!["lone.bpf.c"],
            format!(
                "lone.bpf.c:1:10: fatal error: 'lone.h' file not found\n    1 | #include \"lone.h\"\n      \
                 |          ^~~~~~~~\n1 error generated.\n\
                 bpftime: lone.bpf.c: does not compile ({compiler}: exit status: 1): see what clang says\n"
            ),
        ),
        (
            vec!["good.bpf.c", "none.h"],
            "bpftime: none.h: cannot be read (No such file or directory): name a header, or none\n"
                .into(),
        ),
        (
            vec!["none.bpf.c"],
            "bpftime: none.bpf.c: cannot be read (No such file or directory): name a C source\n"
                .into(),
        ),
        (
            vec!["tool.txt"],
            "bpftime: tool.txt: is no C source by its name: name a file that ends in .bpf.c\n"
                .into(),
        ),
        (
            vec!["good.bpf.c", "--btf", "tool.txt"],
            "bpftime: tool.txt: is no BTF that libbpf can read (Invalid argument): \
             name a file with BTF, such as /sys/kernel/btf/vmlinux\n"
                .into(),
        ),
        (
            vec!["good.bpf.c", "-o", "/proc/none"],
            "bpftime: /proc/none: cannot be written (No such file or directory): \
             choose another directory by -o\n"
                .into(),
        ),
    ] {
        let mut all = vec!["build"];
        all.extend(&words);
        let exit = run(&world, &dir, &all);
        assert_eq!((exit.code, exit.stderr), (1, expected), "{words:?}");
    }
    let mut command = bpftime(&world, &dir, &["build", "good.bpf.c"]);
    command.env("PATH", "/none");
    let exit = Program::on_pipes(command).finish();
    let expected = "bpftime: clang: no such compiler: \
                    install it (apt install clang), or name one by --clang\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (127, expected));

    // No more than a block may be written.
    let script = "ulimit -f 1 && exec \"$@\"";
    let binary = world.binary();
    let binary = binary.to_str().expect("a path of ours");
    let mut command = world.plain(&["sh", "-c", script, "sh", binary, "build", "good.bpf.c"]);
    command.current_dir(&dir);
    let exit = Program::on_pipes(command).finish();
    let expected = "bpftime: the object: cannot be linked by libbpf (File too large): \
                    raise the limit on file sizes (ulimit -f)\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));

    fs::set_permissions(&dir, fs::Permissions::from_mode(0o555)).expect("chmod");
    let exit = run(&world, &dir, &["build", "good.bpf.c"]);
    let expected = "bpftime: good.bpf.o: cannot be written (Permission denied): \
                    choose another directory by -o\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));
    assert_eq!(names(&dir), before);
}

#[test]
fn annotations_that_nobody_knows_are_told() {
    let world = World::new();
    let source = "#include <vmlinux.h>\n#include <bpf/bpf_helpers.h>\n/// @limit 5\nconst volatile int x = 0;\n\
                  SEC(\"tc\") int f(struct __sk_buff *ctx) { return x; }\n";
    let bad = source.replace("@limit 5", "@cmdarg 5");
    let dir = directory(&world, "work", &[("a.bpf.c", source), ("b.bpf.c", &bad)]);
    let exit = run(&world, &dir, &["build", "a.bpf.c"]);
    let expected = "bpftime: a.bpf.c:3: @limit is no annotation of a variable, whose are @cmdarg, @description\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (0, expected));
    let variables = &package(&dir)["meta"]["bpf_skel"]["data_sections"][0]["variables"];
    assert_eq!(
        *variables,
        json!([{"name": "x", "type": "int", "limit": 5}])
    );

    let exit = run(&world, &dir, &["build", "b.bpf.c"]);
    let expected = "bpftime: b.bpf.c:3: @cmdarg takes a JSON object: \
                    write @cmdarg {\"default\": 0, \"short\": \"p\", \"long\": \"pid\"}\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));
    assert!(!dir.join("b.bpf.o").exists());
}

/// Builds as root in a mount namespace that a script changes first.
fn elsewhere(world: &World, dir: &Path, script: &str, words: &[&str]) -> Exit {
    let script = format!("{script} && exec \"$@\"");
    let binary = world.binary();
    let mut all = vec!["unshare", "-m", "sh", "-c", &script, "sh"];
    all.push(binary.to_str().expect("a path of ours"));
    all.extend(words);
    let mut command = world.plain(&all);
    command.current_dir(dir);
    Program::on_pipes(command).finish()
}

#[test]
fn neither_headers_nor_types_of_the_kernel_are_needed() {
    let Some(world) = World::privileged() else {
        return;
    };
    let plain = "#include <stdbool.h>\n#include <linux/bpf.h>\n#include <linux/ptrace.h>\n\
                 #include <bpf/bpf_helpers.h>\n#include <bpf/bpf_tracing.h>\n#include <bpf/usdt.bpf.h>\nbool seen = false;\n\
                 SEC(\"uprobe\") int BPF_KPROBE(f, __u32 x) { seen = x == BPF_ANY; return 0; }\n";
    let files = [
        ("plain.bpf.c", plain),
        ("tool.bpf.c", SOURCE),
        ("tool.h", HEADER),
    ];
    let dir = directory(&world, "work", &files);
    let hidden = "mount -t tmpfs none /usr/include";
    for words in [
        vec!["build", "plain.bpf.c"],
        vec!["build", "tool.bpf.c", "tool.h"],
    ] {
        let exit = elsewhere(&world, &dir, hidden, &words);
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{words:?}");
    }
    done(&world, &dir, &["new", "first", "--template", "histogram"]);
    let hidden = "mount -t tmpfs none /usr/include && mount -t tmpfs none /sys/kernel/btf";
    let exit = elsewhere(
        &world,
        &dir.join("first"),
        hidden,
        &["build", "first.bpf.c", "first.h"],
    );
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""));
}

#[test]
fn a_full_disk_is_told() {
    let Some(world) = World::privileged() else {
        return;
    };
    let dir = directory(
        &world,
        "work",
        &[("tool.bpf.c", SOURCE), ("tool.h", HEADER)],
    );
    fs::create_dir(dir.join("full")).expect("a directory");
    let words = ["build", "tool.bpf.c", "tool.h", "-o", "full"];
    let exit = elsewhere(&world, &dir, "mount -t tmpfs -o size=4k none full", &words);
    let expected = "bpftime: full/tool.bpf.o: cannot be written (No space left on device): \
                    free some space, or choose another directory by -o\n";
    assert_eq!((exit.code, exit.stderr.as_str()), (1, expected));
}
