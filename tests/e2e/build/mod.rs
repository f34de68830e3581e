//! `bpftime build`: what it makes of a source.
//!
//! `projects` has what `bpftime new` begins, built and run; `refusals` what is
//! no source or cannot be written; `machines` what a machine may lack.

mod machines;
mod projects;
mod refusals;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpftime_tests::{Exit, Program, World};
use serde_json::{Value, json};

pub const SOURCE: &str = r#"/* A source as packages are made of. */
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

pub const HEADER: &str = r#"struct hist { unsigned int slots[4]; };
struct event {
	int number;
	const void *parent;
	enum kind { FIRST, SECOND } kind;
	char text[8];
};
"#;

/// A directory of the ordinary user with files in it.
pub fn directory(world: &World, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = world.home().join(name);
    fs::create_dir(&dir).expect("a directory");
    for (file, text) in files {
        fs::write(dir.join(file), text).expect("a file");
    }
    chown(&dir, Some(world.uid()), None).expect("a directory of the user");
    dir
}

/// A `bpftime` command in a directory.
pub fn bpftime(world: &World, dir: &Path, words: &[&str]) -> Command {
    let mut command = world.bpftime(words);
    command.current_dir(dir);
    command
}

pub fn run(world: &World, dir: &Path, words: &[&str]) -> Exit {
    Program::on_pipes(bpftime(world, dir, words)).finish()
}

/// Runs a command that must succeed without a word on stderr; its stdout.
pub fn done(world: &World, dir: &Path, words: &[&str]) -> String {
    let exit = run(world, dir, words);
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ""), "{words:?}");
    exit.stdout
}

pub fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn package(dir: &Path) -> Value {
    serde_json::from_slice(&bytes(&dir.join("package.json"))).expect("JSON")
}

/// Names in a directory, those of hidden files among them.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub fn output(command: &str, words: &[&str], file: &Path) -> String {
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

/// Variables of whoever includes a header, of a header and of functions.
#[test]
fn static_variables_are_no_options() {
    let world = World::new();
    let header = "#pragma once\nstatic const volatile int of_header = 1;\nstatic int counted;\n\
                  static inline int next(void) { static int last; return ++last + ++counted; }\n\
                  const volatile int shared = 2;\n";
    let source = "#include <vmlinux.h>\n#include <bpf/bpf_helpers.h>\n#include \"lib.h\"\n\
                  static const volatile int own = 3;\nconst volatile int option = 4;\nint seen;\n\
                  SEC(\"uprobe\") int f(void *ctx) { seen = next(); return of_header + own + option + shared; }\n\
                  char LICENSE[] SEC(\"license\") = \"GPL\";\n";
    let dir = directory(
        &world,
        "static",
        &[("tool.bpf.c", source), ("lib.h", header)],
    );
    done(&world, &dir, &["build", "tool.bpf.c"]);
    let sections = &package(&dir)["meta"]["bpf_skel"]["data_sections"];
    let int = |name: &str| json!({"name": name, "type": "int"});
    assert_eq!(
        *sections,
        json!([
            {"name": ".rodata", "variables": [int("shared"), int("option")]},
            {"name": ".bss", "variables": [int("seen")]},
        ])
    );
}
