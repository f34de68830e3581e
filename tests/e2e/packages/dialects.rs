//! Packages of older tools, and places that packages name.

use std::fs;

use bpftime_tests::{Program, Stage, World};
use serde_json::{Value, json};

use super::{ATTACHED, called, events, exported, object, packed, parcel, run, without_time, write};
use crate::oracle::same;

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
