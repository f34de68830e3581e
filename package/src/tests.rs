//! Packages of every dialect, and damaged ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::meta::{ExportConfig, Interpreter, SampleType, TcPoint};
use crate::{Package, encoded};

/// Enough for who looks at the first bytes only.
const OBJECT: &[u8] = b"\x7fELF and the rest of an object, the rest of an object";

fn whole() -> Value {
    json!({
        "bpf_object": encoded::text(OBJECT),
        "bpf_object_size": OBJECT.len(),
        "meta": {"bpf_skel": {"obj_name": "tool_bpf", "maps": null, "progs": null, "data_sections": []}},
    })
}

fn parse(value: &Value) -> Package {
    Package::parse(value.to_string().as_bytes()).expect("a good package")
}

fn refusal(bytes: &[u8]) -> String {
    let text = Package::parse(bytes).expect_err("no package").to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn what_is_not_said_has_its_default() {
    let package = parse(&whole());
    assert_eq!(package.object.as_deref(), Some(OBJECT));
    let meta = &package.meta;
    assert_eq!((meta.perf_buffer_pages, meta.poll_timeout_ms), (64, 100));
    assert!(!meta.enable_multiple_export_types && !meta.print_header);
    assert_eq!(meta.bpf_skel.obj_name, "tool_bpf");
    assert!(meta.bpf_skel.maps.is_empty() && meta.bpf_skel.progs.is_empty());
    let again = package.to_json().expect("it has an object");
    assert_eq!(Package::parse(again.as_bytes()).ok(), Some(package));
}

#[test]
fn every_part_is_read() {
    let mut value = whole();
    value["meta"]["enable_multiple_export_types"] = json!(true);
    value["meta"]["bpf_skel"]["maps"] = json!([
        {"name": "counts", "ident": "counts", "sample": {"interval": 100, "type": "log2_hist", "clear_map": true},
         "export_config": "default"},
        {"name": "stacks", "ident": "stacks", "export_config": {"btf_type_id": 7},
         "intepreter": {"stack_trace": {"field_map": {"pid": "process"}}}},
        {"name": "own", "ident": "own", "sample": {"interval": 5},
         "export_config": {"custom_members": [{"name": "a", "offset": 4, "btf_type_id": 2}]}},
    ]);
    value["meta"]["bpf_skel"]["progs"] = json!([
        {"name": "out", "attach": "tc", "link": true,
         "tchook": {"ifindex": 3, "attach_point": "BPF_TC_EGRESS"}, "tcopts": {"priority": 9}, "note": "kept"},
    ]);
    value["meta"]["bpf_skel"]["data_sections"] = json!([
        {"name": ".rodata", "variables": [
            {"name": "pid", "type": "pid_t", "value": 3, "cmdarg": {"short": "p", "default": 4}}]},
    ]);
    let package = parse(&value);
    let skeleton = &package.meta.bpf_skel;
    let sample = skeleton.maps[0].sample.as_ref().expect("it is sampled");
    assert_eq!(
        (
            sample.interval,
            sample.ty,
            sample.unit.as_str(),
            sample.clear_map
        ),
        (100, SampleType::Log2Hist, "(unit)", true)
    );
    assert_eq!(skeleton.maps[0].export_config, ExportConfig::Default);
    assert_eq!(skeleton.maps[1].export_config, ExportConfig::BtfTypeId(7));
    match &skeleton.maps[1].intepreter {
        Interpreter::StackTrace {
            field_map,
            with_symbols,
        } => {
            assert_eq!(
                (field_map.pid.as_deref(), *with_symbols),
                (Some("process"), true)
            );
        }
        other => panic!("{other:?}"),
    }
    let ExportConfig::CustomMembers(members) = &skeleton.maps[2].export_config else {
        panic!("{:?}", skeleton.maps[2]);
    };
    assert_eq!((members[0].name.as_str(), members[0].offset), ("a", 4));
    let hook = skeleton.progs[0].tchook.expect("it has a hook");
    assert_eq!((hook.ifindex, hook.attach_point), (3, TcPoint::Egress));
    let options = skeleton.progs[0].tcopts.expect("it has options");
    assert_eq!((options.handle, options.priority), (1, 9));
    assert_eq!(skeleton.progs[0].others["note"], "kept");
    assert_eq!(
        skeleton.data_sections[0].variables[0].default(),
        Some(&json!(4))
    );
    let again = package.to_json().expect("it has an object");
    assert_eq!(Package::parse(again.as_bytes()).ok(), Some(package));
}

#[test]
fn a_skeleton_has_its_object_elsewhere() {
    let package = parse(&whole()["meta"]);
    assert_eq!(package.object, None);
    assert_eq!(package.meta.bpf_skel.obj_name, "tool_bpf");
}

#[test]
fn older_forms_are_read() {
    let broken_lines = encoded::text(OBJECT).replace('e', "e\n");
    let package = parse(&json!({
        "bpf_object": broken_lines,
        "runtime_args": {"pid": 4},
        "meta": {
            "bpf_skel": {"obj_name": "a_bpf", "progs": [{"link": true, "name": "go"}],
                "data_sections": [{"name": ".rodata", "variables": [{"align": 4, "name": "x", "offset": 0, "size": 8, "type": "int"}]}]},
            "export_types": {"export_btf": "AAEC\nAw", "structs": [{"id": 2, "name": "event"}]},
        },
    }));
    assert_eq!(package.object.as_deref(), Some(OBJECT));
    assert_eq!(package.export_btf().ok().flatten(), Some(vec![0, 1, 2, 3]));
    let ty = &package.meta.export_types[0];
    assert_eq!((ty.name.as_str(), ty.type_id), ("event", 2));
    assert_eq!(package.meta.runtime_args["pid"], 4);

    use base64::Engine;
    let raw = base64::engine::general_purpose::STANDARD.encode(OBJECT);
    let package = parse(&json!({
        "name": "template", "version": "0.1.0", "description": "words", "data": raw, "data_sz": OBJECT.len(),
        "maps": [{"name": "start", "type": "BPF_MAP_TYPE_HASH"}], "progs": [{"name": "go"}],
    }));
    assert_eq!(package.object.as_deref(), Some(OBJECT));
    assert_eq!(package.meta.bpf_skel.maps[0].ident, "start");
    assert_eq!(package.meta.bpf_skel.progs[0].name, "go");
}

#[test]
fn yaml_says_the_same() {
    let text = serde_yaml_ng::to_string(&whole()).expect("it is YAML");
    assert!(Package::is_meant(text.as_bytes()));
    assert_eq!(Package::parse(text.as_bytes()).ok(), Some(parse(&whole())));
}

fn tar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder
            .append_data(&mut header, path, *bytes)
            .expect("memory takes it");
    }
    builder.into_inner().expect("memory takes it")
}

#[test]
fn archives_bring_types_of_kernels() {
    let package = whole().to_string();
    let archive = tar(&[
        ("custom-archive/ubuntu/22.04/x86_64/5.15.0-1.btf", b"types"),
        ("./package.json", package.as_bytes()),
        ("tool.bpf.o", OBJECT),
    ]);
    let read = Package::parse(&archive).expect("an archive");
    assert_eq!(read.object.as_deref(), Some(OBJECT));
    assert_eq!(
        read.kernel("5.15.0-1").map(|found| &found.bytes[..]),
        Some(&b"types"[..])
    );
    assert_eq!(read.kernel("5.15.0-2"), None);

    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&archive).expect("memory takes it");
    let gzip = gzip.finish().expect("memory takes it");
    assert_eq!(Package::parse(&gzip).ok(), Some(read));
    assert_eq!(
        refusal(&gzip[..gzip.len() / 2]),
        "is a damaged archive: incomplete deflate stream"
    );
    assert_eq!(
        refusal(&tar(&[("other.json", b"{}")])),
        "is an archive without a package.json"
    );
    assert_eq!(
        refusal(&archive[..700]),
        "is a damaged archive: unexpected EOF during skip"
    );
}

#[test]
fn damage_is_told_in_a_line() {
    let damaged = |key: &str, value: Value| {
        let mut package = whole();
        package[key] = value;
        refusal(package.to_string().as_bytes())
    };
    let cases = [
        (refusal(b""), "is no package: it is empty"),
        (
            refusal(b"{\"bpf_object\": \"eJ"),
            "is no package: it is not JSON (EOF while parsing a string at line 1 column 18)",
        ),
        (
            refusal(b"[1, 2]"),
            "is no package of eBPF programs: it is no object of JSON",
        ),
        (
            refusal(b"{}"),
            "is no package of eBPF programs: it has no bpf_object",
        ),
        (
            damaged("bpf_object", json!(5)),
            "is no package of eBPF programs: its bpf_object is no text",
        ),
        (
            damaged("bpf_object", json!("eJ!x")),
            "has a damaged object: it is no base64 (Invalid symbol 33, offset 2.)",
        ),
        (
            damaged("bpf_object", json!("AAAA")),
            "has a damaged object: it is not compressed by zlib (corrupt deflate stream)",
        ),
        (
            damaged("bpf_object_size", json!(52)),
            "has an object of more than 52 bytes where it says 52",
        ),
        (
            damaged("bpf_object_size", json!(54)),
            "has an object of 53 bytes where it says 54",
        ),
        (
            damaged("bpf_object_size", json!(1u64 << 40)),
            "would take more than 256 MiB",
        ),
        (
            damaged("bpf_object_size", json!(-1)),
            "is no package of eBPF programs: its bpf_object_size is no size but -1",
        ),
        (
            damaged("meta", json!(null)),
            "is no package of eBPF programs: it has no meta",
        ),
        (
            damaged("meta", json!({})),
            "is no package of eBPF programs: its meta has no bpf_skel",
        ),
        (
            damaged(
                "meta",
                json!({"bpf_skel": {"progs": [{"tchook": {"attach_point": "IN"}}]}}),
            ),
            "is no package of eBPF programs: unknown variant `IN`, expected one of `BPF_TC_INGRESS`, `BPF_TC_EGRESS`, `BPF_TC_CUSTOM`",
        ),
        (
            damaged("bpf_object", json!(encoded::text(&[0; 53]))),
            "has an object that is no ELF file",
        ),
    ];
    for (said, wanted) in cases {
        assert_eq!(said, wanted);
    }
}

#[test]
fn a_bomb_is_not_unpacked() {
    let bomb = encoded::text(&vec![0; 8 << 20]);
    assert!(bomb.len() < 16 << 10);
    let mut package = whole();
    package["bpf_object"] = json!(bomb);
    package["bpf_object_size"] = json!(4096);
    assert_eq!(
        refusal(package.to_string().as_bytes()),
        "has an object of more than 4096 bytes where it says 4096"
    );
}
