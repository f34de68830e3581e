//! Packages that are damaged.

use std::path::Path;

use bpftime_tests::World;
use serde_json::{Value, json};

use super::{called, events, exported, object, packed, parcel, write};

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

#[test]
fn a_program_that_replaces_that_of_an_fd() {
    let world = World::new();
    world.fixture("tgt");
    let mut package = parcel(&["on_call"], &events(), &exported("event"));
    for (fd, code, said) in [
        (0, 0, super::ATTACHED),
        (
            5,
            1,
            "bpftime: on_call: is to replace the program of an fd (xdpopts), which a package cannot \
             have: set old_prog_fd to 0, and take the other program off first\n",
        ),
    ] {
        package["meta"]["bpf_skel"]["progs"][0]["xdpopts"] = json!({ "old_prog_fd": fd });
        let exit = called(&world, &[], &package, &[], "1");
        assert_eq!((exit.code, exit.stderr.as_str()), (code, said), "{fd}");
    }
}
