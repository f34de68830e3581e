//! The programs in `benches/vm` and the memory that each gets. To add one,
//! write its C file and a row here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::object::Program;

/// What a program's memory holds at first.
#[derive(Clone, Copy, Debug)]
pub enum Fill {
    /// Numbers that look random.
    Random,
    /// The same text over and over.
    Text(&'static str),
    /// Zero-terminated words of random letters.
    Words,
}

impl Fill {
    /// Fills `memory`, always in the same way.
    pub fn fill(self, memory: &mut [u8]) {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        match self {
            Fill::Random => memory.fill_with(random),
            Fill::Text(text) => {
                for (at, byte) in memory.iter_mut().zip(text.bytes().cycle()) {
                    *at = byte;
                }
            }
            Fill::Words => memory.fill_with(|| match random() {
                0..16 => 0,
                other => b'a' + other % 4,
            }),
        }
    }
}

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Costs nothing but entry; in no mean.
    Entry,
    Arithmetic,
    Hashing,
    Ciphers,
    Parsing,
    Strings,
    Memory,
    Branches,
    Calls,
    Maps,
}

/// A program.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Name of its C file.
    pub name: &'static str,
    /// What it is about.
    pub group: Group,
    /// Bytes of memory.
    pub bytes: usize,
    /// What they are.
    pub fill: Fill,
}

const fn row(name: &'static str, group: Group, bytes: usize, fill: Fill) -> Row {
    Row {
        name,
        group,
        bytes,
        fill,
    }
}

/// Instruction sets that programs are compiled for.
pub const CPUS: [&str; 2] = ["v3", "v4"];

const JSON: Fill = Fill::Text(
    r#"{"name":"bpftime","tags":["a","b\"c","d"],"n":[1,2,[3,4]],"deep":{"er":{"x":null}}},"#,
);
const HTTP: Fill = Fill::Text("GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST /a PUT /b DELETE /c HEAD /d ");
const NUMBERS: Fill = Fill::Text("12 345,6789;0 18446744073709551615 42\n7;99999999,123456 ");
const UTF8: Fill = Fill::Text("plain text, Grüße, 日本語, 🦀🐝, и ещё; \u{7ff}\u{800}\u{ffff}");
const REPEATED: Fill = Fill::Text("eight by");
const CODE: Fill =
    Fill::Text("fn main() { let x1 = 42 + y2 * 0x1f; // a comment: 7 8 9\n return }");

/// All programs.
pub const ROWS: &[Row] = &[
    row("empty", Group::Entry, 64, Fill::Random),
    row("bitcount", Group::Arithmetic, 4096, Fill::Random),
    row("digits", Group::Arithmetic, 4096, Fill::Random),
    row("fibonacci", Group::Arithmetic, 4096, Fill::Random),
    row("isqrt", Group::Arithmetic, 4096, Fill::Random),
    row("powmod", Group::Arithmetic, 4096, Fill::Random),
    row("signed_average", Group::Arithmetic, 4096, Fill::Random),
    row("adler32", Group::Hashing, 4096, Fill::Random),
    row("crc32", Group::Hashing, 8192, Fill::Random),
    row("fnv1a", Group::Hashing, 4096, Fill::Random),
    row("jenkins", Group::Hashing, 4096, Fill::Random),
    row("murmur3", Group::Hashing, 4096, Fill::Random),
    row("sha256", Group::Hashing, 4096, Fill::Random),
    row("siphash", Group::Hashing, 4096, Fill::Random),
    row("xxhash64", Group::Hashing, 4096, Fill::Random),
    row("chacha20", Group::Ciphers, 1024, Fill::Random),
    row("rc4", Group::Ciphers, 4096, Fill::Random),
    row("xtea", Group::Ciphers, 1024, Fill::Random),
    row("base64", Group::Parsing, 4096, Fill::Random),
    row("decimal", Group::Parsing, 4096, NUMBERS),
    row("hex_decode", Group::Parsing, 4096, Fill::Random),
    row("http_method", Group::Parsing, 4096, HTTP),
    row("ip_header", Group::Parsing, 4096, Fill::Random),
    row("json_scan", Group::Parsing, 4096, JSON),
    row("utf8", Group::Parsing, 4096, UTF8),
    row("varint", Group::Parsing, 4096, Fill::Random),
    row("memcmp", Group::Strings, 4096, REPEATED),
    row("strcmp", Group::Strings, 4096, Fill::Words),
    row("strlen", Group::Strings, 4096, Fill::Words),
    row("substr", Group::Strings, 4096, Fill::Words),
    row("uppercase", Group::Strings, 4096, Fill::Words),
    row("bounds_ladder", Group::Memory, 4096, Fill::Random),
    row("histogram", Group::Memory, 4096, Fill::Random),
    row("matmul", Group::Memory, 4096, Fill::Random),
    row("memcpy", Group::Memory, 8192, Fill::Random),
    row("memset", Group::Memory, 4096, Fill::Random),
    row("reverse", Group::Memory, 4096, Fill::Random),
    row("strided", Group::Memory, 4096, Fill::Random),
    row("unaligned", Group::Memory, 4096, Fill::Random),
    row("binary_search", Group::Branches, 4096, Fill::Random),
    row("collatz", Group::Branches, 1024, Fill::Random),
    row("gcd", Group::Branches, 4096, Fill::Random),
    row("insertion_sort", Group::Branches, 4096, Fill::Random),
    row("quicksort", Group::Branches, 4096, Fill::Random),
    row("sieve", Group::Branches, 4096, Fill::Random),
    row("state_machine", Group::Branches, 4096, CODE),
    row("calls", Group::Calls, 4096, Fill::Random),
    row("five_arguments", Group::Calls, 4096, Fill::Random),
    row("array_count", Group::Maps, 1024, Fill::Random),
    row("hash_churn", Group::Maps, 2048, Fill::Random),
    row("hash_lookup", Group::Maps, 4096, Fill::Random),
    row("percpu_count", Group::Maps, 1024, Fill::Random),
];

/// Where the C files are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm")
}

/// Where compiled programs are, after [`build`].
pub fn outputs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-vm")
}

/// Compiles whatever is older than its source.
pub fn build() -> Result<()> {
    let make = Command::new("make")
        .arg("-s")
        .arg("-C")
        .arg(sources())
        .arg(format!("OUT={}", outputs().display()))
        .status()
        .context("make")?;
    ensure!(make.success(), "make could not compile the programs");
    Ok(())
}

impl Row {
    /// The program for one of [`CPUS`]; `None` if it cannot be compiled for it.
    pub fn program(&self, cpu: &str) -> Result<Option<Program>> {
        let path = outputs().join(format!("{}.{cpu}.o", self.name));
        if !path.exists() && cpu != "v4" {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let program = Program::read(&bytes).with_context(|| path.display().to_string())?;
        Ok(Some(program))
    }

    /// The native library.
    pub fn library(&self) -> PathBuf {
        outputs().join(format!("{}.so", self.name))
    }
}
