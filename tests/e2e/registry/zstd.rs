//! Layers that are compressed by zstd(1).

use std::io::Write;
use std::process::{Command, Stdio};

use bpftime_tests::{Registry, World};

use super::{MODULE, PACKAGE, TAR, image, pull, refused, tar};

fn zstd(options: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(["-c", "-q"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("zstd; `make deps` installs it");
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("its output").stdout;
    writer.join().expect("a thread").expect("its input");
    output
}

#[test]
fn layers_by_zstd_are_understood() {
    let world = World::new();
    let registry = Registry::open();
    let media_type = format!("{TAR}+zstd");
    let layer = |tag: &str, bytes: &[u8]| {
        image(&registry, tag, b"{}", &[(&media_type, bytes)]);
        format!("{}/images:{tag}", registry.name)
    };
    let packed = tar(
        "cf",
        &[("app.wasm", MODULE), ("notes.txt", &[b'x'; 300_000])],
    );
    for (tag, options) in [
        ("usual", &[][..]),
        ("best", &["-19", "--no-check"][..]),
        ("fast", &["--fast=5"]),
    ] {
        let reference = layer(tag, &zstd(options, &packed));
        assert_eq!(pull(&world, &reference), MODULE, "{tag}");
    }
    // Frame behind frame, and between them some that say nothing, as eStargz's kin writes.
    let mut frames = Vec::new();
    for part in packed.chunks(100_000) {
        frames.extend(b"\x5a\x2a\x4d\x18\x03\0\0\0abc");
        frames.extend(zstd(&[], part));
    }
    frames.extend(b"\x50\x2a\x4d\x18\0\0\0\0");
    assert_eq!(pull(&world, &layer("frames", &frames)), MODULE);
    // A file by itself, whatever it is said to be.
    let alone = zstd(&[], PACKAGE);
    assert_eq!(pull(&world, &layer("alone", &alone)), PACKAGE);

    let whole = zstd(&[], &packed);
    let cut = layer("cut", &whole[..whole.len() - 9]);
    let said = refused(&world, &[&cut]);
    assert!(said.starts_with("a layer is damaged ("), "{said}");
    let mut odd = whole.clone();
    odd[5..40].fill(0xff);
    let said = refused(&world, &[&layer("odd", &odd)]);
    assert!(said.starts_with("a layer is damaged ("), "{said}");
    let skips = layer("skips", b"\x50\x2a\x4d\x18\xff\xff\xff\xffabc");
    let said = refused(&world, &[&skips]);
    assert!(said.starts_with("a layer is damaged ("), "{said}");
    // Small as it comes, large as it is.
    let large = layer("large", &zstd(&["-19"], &vec![0; 64 << 20]));
    let said = refused(&world, &[&large, "--max-size=1m"]);
    assert_eq!(said, "is larger than 1 MiB: --max-size allows more");
}
