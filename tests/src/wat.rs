//! Guests as text: modules that make the calls of a host one by one and say
//! what came of each. They can be wrong in ways that no compiler allows.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use wast::Wat;
use wast::parser::{ParseBuffer, parse};

use crate::stage::Stage;
use crate::world::World;

/// Bytes of a guest's memory.
pub const END: u32 = 4 * 65536;

/// How a guest spells its imports.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Their module.
    pub namespace: &'static str,
    /// The type of pointers.
    pub pointer: &'static str,
}

/// As modules of today.
pub const PLAIN: Shape = Shape {
    namespace: "wasm_bpf",
    pointer: "i32",
};

/// What every guest begins with. Its memory: a record from 1024 on, names from
/// 64 on, `TARGET` from 256 on, an object from 65536 on.
const PRELUDE: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (import "NAMESPACE" "wasm_load_bpf_object" (func $load (param POINTER i32) (result i64)))
  (import "NAMESPACE" "wasm_close_bpf_object" (func $close (param i64) (result i32)))
  (import "NAMESPACE" "wasm_attach_bpf_program" (func $attach (param i64 POINTER POINTER) (result i32)))
  (import "NAMESPACE" "wasm_attach_bpf_program_fd" (func $attach_fd (param i64 POINTER i32) (result i32)))
  (import "NAMESPACE" "wasm_bpf_buffer_poll" (func $poll (param i64 i32 i32 i32 POINTER i32 i32) (result i32)))
  (import "NAMESPACE" "wasm_bpf_map_fd_by_name" (func $map (param i64 POINTER) (result i32)))
  (import "NAMESPACE" "wasm_bpf_map_operate" (func $operate (param i32 i32 POINTER POINTER POINTER i64) (result i32)))
  EXTRA
  (memory (export "memory") 4)
  (table (export "__indirect_function_table") 8 funcref)
  (type $callback (func (param i32 i32 i32) (result i32)))
  (global $calls (mut i32) (i32.const 0))
  (data (i32.const 64) "ring\00perf\00sums\00counts\00only\00on_call\00on_enter\00no_such\00")
  (data (i32.const 256) "TARGET\00")
  (data (i32.const 65536) "OBJECT")
  (func $say (param $n i64)
    (local $at i32) (local $negative i32)
    (local.set $at (i32.const 63))
    (i32.store8 (local.get $at) (i32.const 10))
    (if (i64.lt_s (local.get $n) (i64.const 0)) (then
      (local.set $negative (i32.const 1))
      (local.set $n (i64.sub (i64.const 0) (local.get $n)))))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10)))))
      (local.set $n (i64.div_u (local.get $n) (i64.const 10)))
      (br_if $digit (i64.ne (local.get $n) (i64.const 0))))
    (if (local.get $negative) (then
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.const 45))))
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (i32.sub (i32.const 64) (local.get $at)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $tell (param i32) (call $say (i64.extend_i32_s (local.get 0))))
  (func $pause
    (i32.store (i32.const 0) (i32.const 12))
    (i32.store (i32.const 4) (i32.const 1))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8))))
"#;

/// Where the names lie in a guest's memory.
pub fn name(name: &str) -> u32 {
    let mut at = 64;
    for known in [
        "ring", "perf", "sums", "counts", "only", "on_call", "on_enter", "no_such",
    ] {
        if known == name {
            return at;
        }
        at += known.len() as u32 + 1;
    }
    panic!("guests have no name {name}")
}

/// Translates a module.
///
/// # Panics
/// If it is none.
pub fn binary(text: &str) -> Vec<u8> {
    let buffer = ParseBuffer::new(text).expect("words of Wasm");
    let mut module = parse::<Wat<'_>>(&buffer).unwrap_or_else(|error| panic!("{error}\n{text}"));
    module
        .module
        .encode()
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A guest of this world: functions `items`, and `_start` that does `body`. It
/// carries the programs of `steps`, and TARGET is their place.
///
/// # Panics
/// If it is no module.
pub fn guest(world: &World, shape: Shape, extra: &str, items: &str, body: &str) -> PathBuf {
    let target = format!("{}:tgt_add", world.fixture("tgt").display());
    let prelude = PRELUDE
        .replace("EXTRA", extra)
        .replace("NAMESPACE", shape.namespace)
        .replace("TARGET", &target)
        .replace("OBJECT", &bytes(&object()));
    let body = body.replace("SIZE", &object().len().to_string());
    let text = format!("(module {prelude} {items} (func (export \"_start\") {body}))");
    write(world, &text.replace("POINTER", shape.pointer))
}

/// Writes a module into this world.
///
/// # Panics
/// If that cannot be.
pub fn write(world: &World, text: &str) -> PathBuf {
    let path = world.home().join("guest.wasm");
    fs::write(&path, binary(text)).expect("a module");
    path
}

fn object() -> Vec<u8> {
    fs::read(Stage::get().fixture("steps.bpf.o")).expect("the object")
}

fn bytes(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Strings grow.
        let _ = write!(text, "\\{byte:02x}");
        text
    })
}
