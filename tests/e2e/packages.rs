//! `bpftime run` with packages: options by their annotations, records and maps
//! as they want them shown, in user space as an ordinary user and in the kernel
//! as root.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bpftime_tests::{Exit, Mode, Program, Stage, World};
use flate2::Compression;
use flate2::read::ZlibEncoder;
use serde_json::{Value, json};

use crate::oracle::same;

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

#[test]
fn options_and_records_of_every_type() {
    let package = parcel(&["on_call"], &events(), &exported("event"));
    let usual = same(|world| without_time(&called(world, &["--json"], &package, &[], "2")));
    assert_eq!(
        usual,
        "{\"exact\":0.0,\"given\":{\"__EUNOMIA_TYPE\":\"struct\",\"__EUNOMIA_TYPE_NAME\":\"given\",\
         \"flag\":true,\"small\":0,\"tiny\":200},\"huge\":0,\"kept\":true,\"letter\":97,\"loud\":false,\
         \"name\":\"none\",\"number\":1,\"pid\":0,\"quiet\":true,\"scale\":1.5,\"text\":\"round-1\",\"twice\":-2}\n"
    );
    let said = same(|world| {
        let options = [
            "-l",
            "2",
            "--tiny",
            "255",
            "--small",
            "65535",
            "--gross",
            "18446744073709551615",
            "--scale",
            "-0.25",
            "--exact",
            "1e300",
            "--letter",
            "z",
            "--name",
            "sevenxx",
            "--enable-loud",
            "--disable-quiet",
            "--pid_target",
            "-3",
        ];
        without_time(&called(world, &[], &package, &options, "3"))
    });
    assert_eq!(
        said,
        "TIME     PID    NUMBER TWICE  SCALE  EXACT  LOUD   QUIET  KEPT   LETTER GIVEN  HUGE   NAME   TEXT   \n  \
         -3    2      -4     -0.25  1e+300 true   false  true   122    {\"__EUNOMIA_TYPE\":\"struct\",\
         \"__EUNOMIA_TYPE_NAME\":\"given\",\"flag\":true,\"small\":65535,\"tiny\":255} 18446744073709551615 sevenxx round-2\n"
    );
}

#[test]
fn help_is_the_packages() {
    let world = World::new();
    let package = parcel(&["on_call"], &events(), &exported("event"));
    let file = write(&world, "package.json", package.to_string().as_bytes());
    let exit = world.run(&["run", &file, "--help"]);
    assert_eq!(exit.code, 0, "{exit:?}");
    let head: Vec<&str> = exit.stdout.lines().take(4).collect();
    let usage = format!("Usage: bpftime run {file} [OPTIONS]");
    assert_eq!(head, ["Shows calls.", "", usage.as_str(), ""]);
    for option in [
        "--pid_target <pid_target>  Process to look at",
        "-l, --least <least>            Set value of `unsigned int` variable least [default: 1]",
        "--gross <gross>            Set value of `__u64` variable huge",
        "--enable-loud              Set value of `bool` variable loud [default: false]",
        "--disable-quiet            Set value of `bool` variable quiet [default: true]",
        "--kept                     Set value of `bool` variable kept",
        "--name <name>              What to call it [default: none]",
    ] {
        assert!(exit.stdout.contains(option), "{option}\n{}", exit.stdout);
    }
    assert!(!exit.stdout.contains("__eunomia"), "{}", exit.stdout);
    assert!(exit.stdout.ends_with("\n\nAll of it.\n"), "{}", exit.stdout);
    let version = world.run(&["run", &file, "-V"]);
    assert_eq!(
        (version.code, version.stdout.as_str()),
        (0, "parcel_bpf 1.2.3\n")
    );
    for (words, line) in [
        (
            ["--least", "-1"],
            "bpftime: --least -1: a number from 0 to 4294967295 is wanted: see the list by --help",
        ),
        (
            ["--tiny", "256"],
            "bpftime: --tiny 256: a number from 0 to 255 is wanted: see the list by --help",
        ),
        (
            ["--name", "eightxxx"],
            "bpftime: --name eightxxx: at most 7 bytes fit: see the list by --help",
        ),
    ] {
        let exit = world.run(&["run", &file, words[0], words[1]]);
        assert_eq!((exit.code, exit.stderr.trim_end()), (2, line));
    }
}

#[test]
fn histograms_of_sampled_maps() {
    let hists = |sample: Value| json!([{"name": "hists", "ident": "hists", "sample": sample}]);
    let long = 3_600_000;
    let log2 = hists(json!({"interval": long, "type": "log2_hist", "unit": "calls"}));
    let log2 = parcel(&["on_call"], &log2, &exported("hist"));
    let said = same(|world| {
        let said = without_time(&called(world, &[], &log2, &[], "6"));
        // Elements of a hash come in no order.
        let mut parts: Vec<&str> = said.split_inclusive("\n\n").collect();
        parts.sort_unstable();
        parts.concat()
    });
    assert_eq!(
        said,
        "key =  0
comm = tgt
     calls               : count    distribution
         0 -> 1          : 0        |                                        |
         2 -> 3          : 0        |                                        |
         4 -> 7          : 1        |****************************************|
         8 -> 15         : 0        |                                        |
        16 -> 31         : 1        |****************************************|

key =  1
comm = tgt
     calls               : count    distribution
         0 -> 1          : 0        |                                        |
         2 -> 3          : 1        |****************************************|
         4 -> 7          : 0        |                                        |
         8 -> 15         : 1        |****************************************|
        16 -> 31         : 0        |                                        |
        32 -> 63         : 1        |****************************************|

"
    );
    let said = same(|world| {
        let said = without_time(&called(world, &["--json"], &log2, &[], "3"));
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    });
    assert_eq!(
        said,
        r#"{"key":{"__u32":0},"value":{"comm":"tgt","slots":[0,0,1,0,0,0,0,0]}}
{"key":{"__u32":1},"value":{"comm":"tgt","slots":[0,1,0,0,0,0,0,0]}}"#
    );
    let linear = json!([{"name": "slots", "ident": "slots",
        "sample": {"interval": long, "type": "linear_hist", "unit": "number"}}]);
    let linear = parcel(&["on_call"], &linear, &json!([]));
    let said = same(|world| without_time(&called(world, &[], &linear, &[], "12")));
    assert_eq!(
        said,
        "     number        : count     distribution
        0          : 1        |********************                    |
        1          : 2        |****************************************|
        2          : 2        |****************************************|
        3          : 2        |****************************************|
        4          : 1        |********************                    |
        5          : 1        |********************                    |
        6          : 1        |********************                    |
        7          : 1        |********************                    |
"
    );
}

#[test]
fn elements_are_sampled_while_it_runs() {
    let said = same(|world| {
        let sample = json!({"interval": 20, "clear_map": true});
        let maps = json!([{"name": "hists", "ident": "hists", "sample": sample}]);
        let package = parcel(&["on_call"], &maps, &exported("hist"));
        world.fixture("tgt");
        let file = write(world, "package.json", package.to_string().as_bytes());
        let words = [file.as_str(), "--", "./tgt", "3", "0", "wait"];
        let mut tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        tool.lines_until(|line| line.starts_with("pid "));
        tool.tell("go");
        // The target prints when it is through.
        tool.lines_until(|line| line.ends_with(" right"));
        let exit = tool.finish();
        assert_eq!((exit.code, exit.stderr.as_str()), (0, ATTACHED));
        let elements = exit.stdout.lines().filter(|line| line.contains('{'));
        // What was counted is shown once, in one sample or in several.
        let mut sums = [[0; 8]; 2];
        for line in elements {
            let value: Value =
                serde_json::from_str(&line[line.find("} ").expect("a value") + 2..]).expect("JSON");
            let slots = value["slots"].as_array().expect("slots");
            let odd = usize::from(line.contains("{\"__u32\":1}"));
            for (sum, slot) in sums[odd].iter_mut().zip(slots) {
                *sum += slot.as_u64().expect("a count");
            }
            assert_eq!(value["comm"], "tgt");
        }
        format!("{sums:?}")
    });
    assert_eq!(said, "[[0, 0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]]");
}

#[test]
fn stacks_have_names() {
    let stacks = |symbols: bool| {
        json!([{"name": "stacks", "ident": "stacks", "intepreter": {"stack_trace": {
            "field_map": {"pid": "process"}, "with_symbols": symbols}}}])
    };
    let package = |symbols| {
        parcel(
            &["on_stack"],
            &stacks(symbols),
            &exported("stacktrace_event"),
        )
    };
    // Of a process that lives when its names are looked up.
    let shown = |world: &World, options: &[&str]| {
        let package = package(true).to_string();
        let file = write(world, "package.json", package.as_bytes());
        let path = world.fixture("puppet");
        let mut puppet = world.bare_puppet();
        let pid = puppet.pid().to_string();
        let attach = format!("on_stack={}:puppet_step", path.display());
        let mut words = options.to_vec();
        words.extend(["--pid", &pid, "--attach", &attach, &file]);
        let mut tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        assert_eq!(puppet.ask("call 1"), "ok");
        tool.lines_until(|line| line.contains("puppet_step"));
        let exit = tool.interrupt();
        assert_eq!(puppet.finish().code, 0);
        without_time(&exit)
    };
    let said = same(|world| {
        let said = shown(world, &[]);
        let pid = said
            .split("pid=")
            .nth(1)
            .and_then(|rest| rest.split(')').next());
        let address = said
            .split("[<")
            .nth(1)
            .and_then(|rest| rest.split('>').next());
        said.replace(pid.expect("a pid"), "PID")
            .replace(address.expect("an address"), "ADDRESS")
    });
    assert_eq!(
        said,
        "COMM: puppet (pid=PID) @ CPU 7\nNo Kernel Stack\nUserspace:\n  0 [<ADDRESS>] puppet_step+0x0\n\n"
    );
    let said = same(|world| {
        let mut said: Value = serde_json::from_str(&shown(world, &["--json"])).expect("JSON");
        assert!(said["pid"].as_u64() > Some(1));
        let address = said["ustack"][0]["address"].as_str().expect("an address");
        assert!(address.starts_with("0x"));
        said["pid"] = 1.into();
        said["ustack"][0]["address"] = "".into();
        said.to_string()
    });
    assert_eq!(
        said,
        r#"{"comm":"puppet","cpu_id":7,"kstack":[],"pid":1,"ustack":[{"address":"","offset":0,"symbol":"puppet_step"}]}"#
    );
    let plain = called(&World::new(), &[], &package(false), &[], "1");
    let plain = without_time(&plain);
    assert!(!plain.contains("tgt_add"), "{plain}");
}

#[test]
fn several_maps_are_shown_each_in_its_way() {
    let word = type_id("__u32");
    let maps = json!([
        {"name": "events", "ident": "events", "export_config": {"custom_members": [
            {"name": "half", "offset": 8, "btf_type_id": word},
            {"name": "number", "offset": 4, "btf_type_id": word}]}},
        {"name": "stacks", "ident": "stacks"},
        {"name": "hists", "ident": "hists", "export_config": "default",
            "sample": {"interval": 3_600_000}},
    ]);
    let mut package = parcel(&["on_call", "on_stack"], &maps, &json!([]));
    package["meta"]["enable_multiple_export_types"] = json!(true);
    let said = same(|world| without_time(&called(world, &[], &package, &[], "2")));
    assert_eq!(
        said,
        "TIME     NUMBER HALF   \nTIME     __U32  SLOTS  COMM   \n  1     4294967294\n \
         {\"__u32\":1} {\"comm\":\"tgt\",\"slots\":[0,1,0,0,0,0,0,0]}\n"
    );
}

#[test]
fn system_calls_of_one_process() {
    let said = same(|world| {
        let maps = json!([{"name": "opens", "ident": "opens"}]);
        let package = parcel(&["on_open"], &maps, &exported("opened"));
        let file = write(world, "package.json", package.to_string().as_bytes());
        let mut puppet = world.bare_puppet();
        let mut other = world.bare_puppet();
        let pid = puppet.pid().to_string();
        let words = [
            "--pid",
            &pid,
            &file,
            "--pid_target",
            &pid,
            "--prefix",
            "/no/su",
        ];
        let tool = Program::on_pipes(run(world, &words));
        tool.wait_stderr("attached");
        for puppet in [&mut other, &mut puppet] {
            assert_eq!(puppet.ask("open /no/such/file"), "WRONG");
        }
        let exit = tool.interrupt();
        assert_eq!((puppet.finish().code, other.finish().code), (0, 0));
        without_time(&exit)
    });
    assert_eq!(said, "TIME     FLAGS  PATH   \n  0     /no/such/file\n");
}

#[test]
fn older_packages_run() {
    let said = same(|world| {
        let object = object();
        let package = json!({
            "bpf_object": packed(&object),
            "runtime_args": {"least": 2, "name": "old"},
            "meta": {
                "bpf_skel": {
                    "obj_name": "parcel_bpf",
                    "data_sections": [{"name": ".rodata", "variables": [
                        {"align": 4, "name": "least", "offset": 0, "size": 4, "type": "unsigned int"},
                        {"align": 1, "name": "name", "offset": 0, "size": 8, "type": "char[8]"}]}],
                    "maps": [{"ident": "opens", "name": "opens"}, {"ident": "events", "name": "events"}],
                    "progs": [{"link": true, "name": "on_call"}],
                },
                "export_types": {"structs": [{"id": 1, "name": "opened"}, {"id": 2, "name": "event"}]},
            },
        });
        let exit = called(world, &["--json"], &package, &[], "3");
        let event: Value = serde_json::from_str(&without_time(&exit)).expect("one record");
        format!("{} {} {}", event["number"], event["name"], event["text"])
    });
    assert_eq!(said, "2 \"old\" \"round-2\"");
    // A skeleton, and the object beside it.
    let world = World::new();
    world.fixture("tgt");
    let package = parcel(&["on_call"], &events(), &exported("event"));
    let file = write(
        &world,
        "own.skel.json",
        package["meta"].to_string().as_bytes(),
    );
    let beside = world.home().join("own.bpf.o");
    let refused = world.run(&["run", &file]);
    let line = format!(
        "bpftime: {file}: is a skeleton without its object, and {} cannot be read (No such file or directory): \
         put the object there, or run the package\n",
        beside.display()
    );
    assert_eq!((refused.code, refused.stderr), (1, line));
    fs::write(&beside, object()).expect("a file");
    let mut command = run(&world, &[&file, "--", "./tgt", "2", "0"]);
    command.current_dir(world.home());
    let exit = Program::on_pipes(command).finish();
    assert!(without_time(&exit).contains("round-1"), "{exit:?}");
}

/// On the loopback of a network of its own.
#[test]
fn places_are_the_packages() {
    let Some(world) = World::kernel() else {
        return;
    };
    let object = fs::read(Stage::get().fixture("feeds.bpf.o")).expect("the object");
    let package = json!({
        "bpf_object": packed(&object),
        "bpf_object_size": object.len(),
        "meta": {"bpf_skel": {"obj_name": "feeds_bpf", "data_sections": [],
            "maps": [{"name": "counts", "ident": "counts", "sample": {"interval": 3_600_000}}],
            "progs": [
                {"name": "on_packet", "attach": "xdp", "link": true, "flags": 2},
                {"name": "on_leaving", "attach": "tc", "link": true,
                    "tchook": {"ifindex": 1, "attach_point": "BPF_TC_EGRESS"}, "tcopts": {"handle": 7, "priority": 5}},
                {"name": "on_tick", "attach": "perf_event", "link": true},
            ]}},
    });
    let file = write(&world, "package.json", package.to_string().as_bytes());
    let story = format!(
        "ip link set lo up; {} run --runtime kernel --json {file} -- bash -c \
         'echo >/dev/udp/127.0.0.1/9; ip link show lo | grep -o xdpgeneric; \
          tc filter show dev lo egress | grep -o \"pref 5 bpf.*handle 0x7 on_leaving\"'; \
         ip link show lo | grep -o xdp; tc filter show dev lo egress",
        world.binary().display()
    );
    let mut command = world.tool(&["unshare", "-n", "sh", "-c", &story]);
    command.current_dir(world.home());
    let exit = Program::on_pipes(command).finish();
    let lines: Vec<&str> = exit.stdout.lines().collect();
    let [mode, filter, counts @ ..] = &lines[..] else {
        panic!("{exit:?}");
    };
    assert_eq!(*mode, "xdpgeneric", "{exit:?}");
    assert!(
        filter.starts_with("pref 5 bpf chain 0 handle 0x7"),
        "{exit:?}"
    );
    // The clock may not have ticked in so short a time.
    assert_eq!(counts.len(), 3, "{exit:?}");
    for (index, count) in counts.iter().enumerate().take(2) {
        let wanted = format!("{{\"key\":{{\"__u32\":{index}}},\"value\":{{\"__u64\":1}}}}");
        assert_eq!(*count, wanted);
    }
    assert_eq!(exit.stderr, ATTACHED);
}

/// Everything that is wrong is said in one line, before anything is attached.
#[test]
fn damaged_packages_are_refused_in_a_line() {
    let world = World::new();
    let good = parcel(&["on_call"], &events(), &exported("event"));
    let told = |bytes: &[u8]| {
        let file = write(&world, "bad.json", bytes);
        let exit = world.run(&["run", &file]);
        assert_eq!((exit.code, exit.stdout.as_str()), (1, ""), "{exit:?}");
        let line = exit.stderr.strip_prefix(&format!("bpftime: {file}: "));
        line.unwrap_or(&exit.stderr).to_owned()
    };
    let changed = |pointer: &str, value: Value| {
        let mut package = good.clone();
        *package.pointer_mut(pointer).expect("a place") = value;
        told(package.to_string().as_bytes())
    };
    let again = ": get it again, or build it again\n";
    let builder = ": build it again\n";
    for (said, what, advice) in [
        (
            told(b"{\"bpf_object\""),
            "is no package: it is not JSON (EOF while parsing an object at line 1 column 13)",
            ": name a package, an object file or a Wasm module\n",
        ),
        (
            told(b"{}"),
            "is no package of eBPF programs: it has no bpf_object",
            again,
        ),
        (
            changed("/bpf_object", json!("A?==")),
            "has a damaged object: it is no base64 (Invalid symbol 63, offset 1.)",
            again,
        ),
        (
            changed("/bpf_object", json!("QUJD")),
            "has a damaged object: it is not compressed by zlib (corrupt deflate stream)",
            again,
        ),
        (
            changed("/bpf_object", json!(packed(b"text"))),
            &format!("has an object of 4 bytes where it says {}", object().len()),
            again,
        ),
        (
            changed("/bpf_object_size", json!(100)),
            "has an object of more than 100 bytes where it says 100",
            again,
        ),
        (
            changed("/meta/bpf_skel", json!(null)),
            "is no package of eBPF programs: its meta has no bpf_skel",
            again,
        ),
        (
            changed("/meta/bpf_skel/progs/0/name", json!(7)),
            "is no package of eBPF programs: invalid type: integer `7`, expected a string",
            again,
        ),
        (
            changed(
                "/meta/bpf_skel/maps/0",
                json!({"name": "hists", "sample": {"interval": 1, "type": "pie"}}),
            ),
            "is no package of eBPF programs: unknown variant `pie`, expected one of `log2_hist`, `linear_hist`, `default_kv`",
            again,
        ),
        (
            changed("/meta/export_types/0/name", json!("absent")),
            "records are of struct absent, which its object does not have",
            builder,
        ),
        (
            changed(
                "/meta/bpf_skel/maps/0",
                json!({"name": "pies", "sample": {"interval": 1}}),
            ),
            "samples the map pies, which its object does not have",
            builder,
        ),
        (
            changed(
                "/meta/bpf_skel/maps/0",
                json!({"name": "events", "intepreter": {"stack_trace": {}}}),
            ),
            "events: a record of stacks needs a number cpu_id",
            builder,
        ),
        (
            changed(
                "/meta/bpf_skel/data_sections/0/variables/1/cmdarg/default",
                json!("many"),
            ),
            "least = many: a number from 0 to 4294967295 is wanted",
            ": correct the package\n",
        ),
    ] {
        assert_eq!(said, format!("{what}{advice}"));
    }
    let mut tc = good;
    tc["meta"]["bpf_skel"]["progs"][0]["tchook"] = json!({"attach_point": "BPF_TC_CUSTOM"});
    let file = write(&world, "bad.json", tc.to_string().as_bytes());
    let exit = world.run(&["run", &file]);
    assert_eq!(
        exit.stderr,
        "bpftime: on_call: is to be put on a parent of its own (BPF_TC_CUSTOM), which the package cannot name: \
         --attach on_call=INTERFACE:ingress or :egress\n"
    );
    assert!(Path::new(&file).exists());
}
