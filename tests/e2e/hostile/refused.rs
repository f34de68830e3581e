//! Modules that cannot be run.

use std::fs;

use bpftime_tests::World;

use super::ends;
use crate::objects::text;

#[test]
fn modules_that_cannot_be_run_are_refused_in_a_line() {
    let world = World::new();
    let see = "see docs/support.md for what modules may import";
    let wasi = "(import \"wasi_snapshot_preview1\" \"fd_write\" (func (param i32 i32 i32 i32) (result i32)))";
    for (module, said) in [
        (
            "(module (import \"test\" \"plus\" (func)))".to_owned(),
            format!("imports test.plus, which bpftime does not have: {see}"),
        ),
        (
            "(module (import \"env\" \"memory\" (memory 1)))".to_owned(),
            format!("imports env.memory, which bpftime does not have: {see}"),
        ),
        (
            "(module (import \"wasm_bpf\" \"wasm_close_bpf_object\" (func (param i32) (result i32))))".to_owned(),
            format!("imports wasm_bpf.wasm_close_bpf_object with a type that it never had: {see}"),
        ),
        (
            "(module (import \"wasm_bpf\" \"wasm_close_bpf_object\" (global i32)))".to_owned(),
            format!("imports wasm_bpf.wasm_close_bpf_object, which bpftime does not have: {see}"),
        ),
        (
            "(module (import \"wasi_snapshot_preview1\" \"fd_write\" (func)))".to_owned(),
            format!("imports wasi_snapshot_preview1.fd_write with a type that it never had: {see}"),
        ),
        (
            format!("(module {wasi} (func (export \"_start\")))"),
            "exports no memory: link it with --export-memory".to_owned(),
        ),
        (
            "(module (func (export \"_initialize\")))".to_owned(),
            "has no function _start: build it as a command, not as a library".to_owned(),
        ),
        (
            "(module (func (export \"_start\") (param i32)))".to_owned(),
            "has no function _start: build it as a command, not as a library".to_owned(),
        ),
    ] {
        let expected = (126, format!("bpftime: M: {said}\n"));
        assert_eq!(ends(&world, &[], &module), expected, "{module}");
    }
    let path = world.home().join("guest.wasm");
    let whole = fs::read(world.fixture("steps.wasm")).expect("a module");
    let told = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("a file");
        let exit = world.run(&["run", text(&path)]);
        (exit.code, exit.stderr.replace(text(&path), "M"))
    };
    let damaged = "compile it again: the file is damaged or made for something else\n";
    let not = |why: &str| {
        (
            126,
            format!("bpftime: M: is no Wasm module ({why}): {damaged}"),
        )
    };
    assert_eq!(
        told(b"\0asm"),
        not("unexpected end-of-file (at offset 0x4)")
    );
    let (code, line) = told(&whole[..whole.len() / 2]);
    let start = "bpftime: M: is no Wasm module (unexpected end-of-file (at offset 0x";
    assert!(code == 126 && line.starts_with(start), "{code} {line}");
    assert_eq!(
        told(b"\0asm\x0d\0\x01\0"),
        (126, "bpftime: M: is a Wasm component, which bpftime cannot run: build it for wasm32-wasip1\n".to_owned())
    );
    let mut large = b"\0asm\x01\0\0\0".to_vec();
    large.resize((64 << 20) + 1, 0);
    assert_eq!(
        told(&large),
        (126, "bpftime: M: is larger than the 67108864 bytes that a module may have: strip it, or load its data by --dir\n".to_owned())
    );
}
