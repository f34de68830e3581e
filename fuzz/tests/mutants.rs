//! Mutants of real inputs, the same ones in every run: what `cargo fuzz` does
//! for hours, for a minute. Each must come back; a panic fails the test, a
//! hang its time limit.

#![expect(clippy::print_stderr, reason = "how much was tried")]

use std::fs;
use std::path::Path;

/// A deterministic stream of numbers (xorshift64*).
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }
}

const NUMBERS: [u32; 8] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff8,
    u32::MAX,
];

/// A few changes: bits, bytes, numbers at any place, a piece moved, the end cut.
fn mutate(stream: &mut Stream, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..1 + stream.below(6) {
        if bytes.is_empty() {
            break;
        }
        let at = stream.below(bytes.len());
        match stream.below(7) {
            0 => bytes[at] ^= 1 << stream.below(8),
            1 => bytes[at] = stream.next() as u8,
            2 | 3 => {
                let number = NUMBERS[stream.below(NUMBERS.len())].to_le_bytes();
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
            4 => {
                let (from, len) = (stream.below(bytes.len()), stream.below(64));
                let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
                let end = (at + piece.len()).min(bytes.len());
                bytes[at..end].copy_from_slice(&piece[..end - at]);
            }
            5 if stream.below(4) == 0 => bytes.truncate(at),
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
    bytes
}

fn number(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Feeds every seed and `count` mutants of them to `target`.
fn feed(name: &str, seeds: &[Vec<u8>], count: usize, target: fn(&[u8])) {
    assert!(!seeds.is_empty(), "no seeds for {name}");
    let mut stream = Stream(0x9e37_79b9_7f4a_7c15 ^ number("BPFTIME_SEED", 1) as u64);
    let last = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.last"));
    for seed in seeds {
        target(seed);
    }
    for _ in 0..number("BPFTIME_MUTANTS", count) {
        let pick = stream.below(seeds.len());
        let mutant = mutate(&mut stream, &seeds[pick]);
        fs::write(&last, &mutant).expect("target/tmp is writable");
        target(&mutant);
    }
    eprintln!("{name}: {} seeds", seeds.len());
}

/// Objects of this project's fixtures, and a program of the system.
fn objects() -> Vec<Vec<u8>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fixtures");
    let mut paths = vec![Path::new("/bin/true").to_owned()];
    let entries = fs::read_dir(&fixtures).expect("make fixtures");
    paths.extend(
        entries
            .map(|entry| entry.expect("readable folder").path())
            .filter(|path| path.extension().is_some_and(|e| e == "o" || e == "so")),
    );
    paths.sort();
    let read = |path: &std::path::PathBuf| fs::read(path).expect("a readable file");
    paths.iter().map(read).collect()
}

#[test]
fn elf_files() {
    feed("elf", &objects(), 3000, bpftime_fuzz::elf);
}

#[test]
fn types() {
    let objects = objects();
    let sections = objects.iter().filter_map(|bytes| {
        let file = object::ElfFile::parse(bytes).ok()?;
        Some(file.section(".BTF")?.1.to_vec())
    });
    feed(
        "btf",
        &sections.collect::<Vec<_>>(),
        20_000,
        bpftime_fuzz::btf,
    );
}

/// Programs of the fixtures' objects, as `bytecode` takes them.
fn programs() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for bytes in objects() {
        let Ok(file) = object::ElfFile::parse(&bytes) else {
            continue;
        };
        for name in ["uprobe", "uretprobe", "tp_btf", "xdp", "socket", ".text"] {
            let Some((_, code)) = file.section(name).filter(|(_, code)| code.len() < 8192) else {
                continue;
            };
            for first in [0x08u8, 0x18, 0x78, 0x0c, 0x0e] {
                seeds.push([&[first], code].concat());
            }
        }
    }
    seeds
}

#[test]
fn programs_of_any_bytes() {
    feed("bytecode", &programs(), 5000, bpftime_fuzz::bytecode);
}

#[test]
fn system_calls() {
    let dir = tempfile::tempdir().expect("a directory for sessions");
    // SAFETY: this test is the only thread that reads or writes the environment.
    unsafe {
        std::env::set_var("BPFTIME_SESSION_DIR", dir.path().join("sessions"));
        std::env::set_var("BPFTIME_STATE_DIR", dir.path().join("state"));
    }
    // A hash map, a look-up in it, and bytes for what nobody thought of.
    let mut seed = vec![0, 5, 0, 0, 1, 1, 0, 4, 2, 0, 8, 3, 0, 16, 4, 1, 0];
    seed.extend([1, 3, 0, 2, 0, 2, 3, 10, 4, 3, 20]);
    seed.extend((0..400u32).map(|n| (n * 7) as u8));
    let seeds: Vec<Vec<u8>> = (0..40).map(|n| [&[n, 6], &seed[2..]].concat()).collect();
    feed("bpf_attr", &seeds, 3000, bpftime_fuzz::bpf_attr);
    let made = fs::read_dir(dir.path().join("sessions")).is_ok_and(|mut d| d.next().is_some());
    assert!(made, "the calls did not reach our server");
}
