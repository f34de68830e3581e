//! Facts about files that the machine's compiler makes, and about damaged ones.

use std::path::Path;
use std::process::Command;

use bpftime_object::{Class, ElfFile, FileKind, Machine, ObjectError, Origin};
use proptest::prelude::*;

const SOURCE: &str = r#"
__attribute__((noinline, visibility("default"))) int twice(int x) { return x * 2; }
static __attribute__((noinline, used)) int hidden(int x) { return twice(x) + 1; }
int main(int argc, char **argv) { return hidden(argc); }
"#;

fn compile(dir: &Path, flags: &[&str]) -> Vec<u8> {
    let source = dir.join("a.c");
    let output = dir.join("a.out");
    std::fs::write(&source, SOURCE).expect("write source");
    let status = Command::new("gcc")
        .args(["-O1", "-o"])
        .arg(&output)
        .arg(&source)
        .args(flags)
        .status()
        .expect("gcc runs");
    assert!(status.success(), "gcc {flags:?}");
    std::fs::read(&output).expect("read output")
}

fn check(
    flags: &[&str],
    class: Class,
    machine: Machine,
    kind: FileKind,
    interpreter: Option<&str>,
) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let bytes = compile(dir.path(), flags);
    let elf = ElfFile::parse(&bytes).expect("parses");
    let facts = (elf.class(), elf.machine(), elf.kind(), elf.interpreter());
    assert_eq!(facts, (class, machine, kind, interpreter), "{flags:?}");
    assert!(!elf.is_go());
}

#[test]
fn kinds_of_executables() {
    let ld = Some("/lib64/ld-linux-x86-64.so.2");
    let (c64, x86) = (Class::Elf64, Machine::X86_64);
    check(
        &["-pie", "-fPIE"],
        c64,
        x86,
        FileKind::DynamicExecutable,
        ld,
    );
    check(&["-no-pie"], c64, x86, FileKind::DynamicExecutable, ld);
    check(&["-static"], c64, x86, FileKind::StaticExecutable, None);
    check(
        &["-static-pie", "-fPIE"],
        c64,
        x86,
        FileKind::StaticExecutable,
        None,
    );
    check(
        &["-shared", "-fPIC"],
        c64,
        x86,
        FileKind::SharedLibrary,
        None,
    );
    check(&["-c"], c64, x86, FileKind::Relocatable, None);
}

#[test]
fn a_library_that_can_be_run_is_a_library() {
    let bytes = std::fs::read("/lib/x86_64-linux-gnu/libc.so.6").expect("Debian's libc");
    let elf = ElfFile::parse(&bytes).expect("parses");
    assert_eq!(elf.kind(), FileKind::SharedLibrary);
    assert_eq!(elf.soname(), Some("libc.so.6"));
    assert_eq!(elf.interpreter(), Some("/lib64/ld-linux-x86-64.so.2"));
    assert_eq!(elf.needed(), ["ld-linux-x86-64.so.2"]);
}

#[test]
fn functions_have_the_bounds_of_their_symbols() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let bytes = compile(dir.path(), &["-pie", "-fPIE"]);
    let elf = ElfFile::parse(&bytes).expect("parses");
    let functions = elf.functions();
    for name in ["twice", "hidden", "main"] {
        let symbol = elf.symbols().find(|s| s.name == name).expect("symbol");
        let function = functions.at(symbol.address).expect("function");
        assert_eq!(function.range, symbol.address..symbol.address + symbol.size);
        assert_eq!(function.origin, Origin::Symbol);
        assert_eq!(functions.before(symbol.address + 1), Some(function));
    }
    let (plt, _) = elf.section(".plt").expect("plt");
    assert_eq!(functions.at(plt), None, "call stubs are no functions");
}

#[test]
fn stripped_files_have_functions_by_unwind_tables() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let full = compile(dir.path(), &["-pie", "-fPIE"]);
    let address = ElfFile::parse(&full)
        .expect("parses")
        .function_address("hidden");
    let stripped = compile(dir.path(), &["-pie", "-fPIE", "-s"]);
    let elf = ElfFile::parse(&stripped).expect("parses");
    assert_eq!(elf.function_address("hidden"), None);
    let functions = elf.functions();
    let function = functions.at(address.expect("symbol")).expect("function");
    assert_eq!(function.origin, Origin::Frame);
    assert!(!function.range.is_empty());
}

#[test]
fn offsets_and_addresses_go_through_segments() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let bytes = compile(dir.path(), &["-no-pie"]);
    let elf = ElfFile::parse(&bytes).expect("parses");
    let address = elf.function_address("twice").expect("symbol");
    let offset = elf.offset_of_address(address).expect("in the file");
    assert_eq!(elf.address_of_offset(offset), Some(address));
    assert_ne!(offset, address);
    assert_eq!(elf.address_of_offset(u64::MAX), None);
    assert_eq!(elf.offset_of_address(0), None);
}

#[test]
fn other_bytes_are_no_elf() {
    assert!(matches!(ElfFile::parse(b""), Err(ObjectError::NotElf)));
    assert!(matches!(
        ElfFile::parse(b"#!/bin/sh\n"),
        Err(ObjectError::NotElf)
    ));
    assert!(matches!(
        ElfFile::parse(b"\x7fELF"),
        Err(ObjectError::Damaged(_))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is flipped or cut, the answer is an error or facts, not a panic.
    #[test]
    fn damage_is_survived(cut in 0usize..20_000, flips in prop::collection::vec((0usize..1200, any::<u8>()), 0..8)) {
        let mut bytes = std::fs::read("/bin/true").expect("coreutils");
        let len = bytes.len();
        for (at, value) in flips {
            bytes[at % len] = value;
        }
        bytes.truncate(len - cut % 2 * (cut % len));
        if let Ok(elf) = ElfFile::parse(&bytes) {
            let functions = elf.functions();
            let _ = (elf.kind(), elf.is_go(), elf.symbols().count(), functions.iter().count());
            let _ = (elf.address_of_offset(0x1000), elf.offset_of_address(0x1000));
        }
    }
}
