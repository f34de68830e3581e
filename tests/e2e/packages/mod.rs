//! `bpftime run` with packages, in user space as an ordinary user and in the
//! kernel as root.
//!
//! `options` (by annotations, and records), `sampled` (maps), `stacks`, `dialects`
//! (older packages, places), `refused`.

mod dialects;
mod options;
mod refused;
mod sampled;
mod stacks;

use std::fs;
use std::io::Read;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bpftime_tests::{Exit, Mode, Program, Stage, World};
use flate2::Compression;
use flate2::read::ZlibEncoder;
use serde_json::{Value, json};

const ATTACHED: &str = "bpftime: attached; Ctrl-C ends\n";

/// The object, as packages have it.
fn packed(bytes: &[u8]) -> String {
    let mut packed = Vec::new();
    ZlibEncoder::new(bytes, Compression::best())
        .read_to_end(&mut packed)
        .expect("memory");
    STANDARD.encode(packed)
}

fn object() -> Vec<u8> {
    fs::read(Stage::get().fixture("parcel.bpf.o")).expect("the object")
}

/// A package of `parcel` whose programs are those named.
pub fn parcel(programs: &[&str], maps: &Value, types: &Value) -> Value {
    let object = object();
    let programs: Vec<Value> = programs
        .iter()
        .map(|name| json!({"name": name, "attach": "uprobe/./tgt:tgt_add", "link": true}))
        .collect();
    json!({
        "bpf_object": packed(&object),
        "bpf_object_size": object.len(),
        "meta": {
            "bpf_skel": {
                "obj_name": "parcel_bpf",
                "doc": {"version": "1.2.3", "brief": "Shows calls.", "details": "All of it."},
                "data_sections": [{"name": ".rodata", "variables": variables()}],
                "maps": maps,
                "progs": programs,
            },
            "export_types": types,
        },
    })
}

fn variables() -> Value {
    json!([
        {"name": "pid_target", "type": "pid_t", "cmdarg": {"help": "Process to look at"}},
        {"name": "least", "type": "unsigned int", "cmdarg": {"short": "l", "default": 1}},
        {"name": "tiny", "type": "__u8", "value": 200},
        {"name": "small", "type": "unsigned short"},
        {"name": "huge", "type": "__u64", "cmdarg": {"long": "gross"}},
        {"name": "scale", "type": "float", "cmdarg": {"default": 1.5}},
        {"name": "exact", "type": "double"},
        {"name": "letter", "type": "char"},
        {"name": "name", "type": "char[8]", "cmdarg": {"default": "none"}, "description": "What to call it"},
        {"name": "prefix", "type": "char[8]"},
        {"name": "loud", "type": "bool", "cmdarg": {"default": false}},
        {"name": "quiet", "type": "bool", "cmdarg": {"default": true}},
        {"name": "kept", "type": "bool"},
        {"name": "__eunomia_dummy_event_ptr", "type": "struct event *"},
    ])
}

/// A type of the object by its name; others hold what the package needs only.
pub fn exported(name: &str) -> Value {
    json!([{"name": name, "type_id": type_id(name), "size": 0, "members": []}])
}

fn type_id(name: &str) -> u64 {
    let object = Stage::get().fixture("parcel.bpf.o");
    let mut bpftool = Command::new("bpftool");
    bpftool.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    bpftool.args(["-j", "btf", "dump", "file"]).arg(object);
    let said = bpftool.output().expect("bpftool").stdout;
    let said: Value = serde_json::from_slice(&said).expect("JSON");
    let types = said["types"].as_array().expect("types");
    let found = types.iter().find(|ty| ty["name"] == name);
    found.and_then(|ty| ty["id"].as_u64()).expect("a type")
}

fn write(world: &World, name: &str, package: &[u8]) -> String {
    let path = world.home().join(name);
    fs::write(&path, package).expect("a file");
    path.to_str().expect("a path of ours").to_owned()
}

/// `bpftime run` in this world, beside its target, with programs where the
/// world has them.
fn run(world: &World, words: &[&str]) -> Command {
    let mut all = vec!["run"];
    let mut command = match world.mode() {
        Mode::Bpftime => {
            all.extend(words);
            world.bpftime(&all)
        }
        Mode::Kernel => {
            all.extend(["--runtime", "kernel"]);
            all.extend(words);
            let mut command = world.tool(&[world.binary()]);
            command.args(all);
            command
        }
    };
    command.current_dir(world.home());
    command
}

/// Runs a package on so many calls of `tgt`.
fn called(world: &World, options: &[&str], package: &Value, behind: &[&str], calls: &str) -> Exit {
    world.fixture("tgt");
    let file = write(world, "package.json", package.to_string().as_bytes());
    let mut words = options.to_vec();
    words.push(&file);
    words.extend(behind);
    words.extend(["--", "./tgt", calls, "0"]);
    Program::on_pipes(run(world, &words)).finish()
}

/// What stands behind the time, without the target's line.
fn without_time(exit: &Exit) -> String {
    assert_eq!((exit.code, exit.stderr.as_str()), (0, ATTACHED));
    let lines = exit.stdout.lines().filter(|line| !line.ends_with(" right"));
    let lines = lines.map(|line| match line.as_bytes() {
        [_, _, b':', _, _, b':', ..] => &line[8..],
        _ => line,
    });
    lines.map(|line| format!("{line}\n")).collect()
}

pub fn events() -> Value {
    json!([{"name": "events", "ident": "events"}])
}
