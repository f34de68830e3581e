//! Text of any program or library, mapped as a loader would but never run:
//! for suites that only ask where probes fit.

#![allow(
    dead_code,
    reason = "each suite uses a part, expect would fail in the others"
)]

use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bpftime_attach::Module;
use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use object::ElfFile;

const PAGE: u64 = 4096;

/// The libraries and the program of which coverage is promised.
pub const PROMISED: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0",
    "/bin/bash",
];

/// A file whose text is mapped.
pub struct Image {
    pub module: Arc<Module>,
    pub bias: usize,
    /// All functions, those without a symbol too.
    pub functions: Vec<Range<usize>>,
}

/// How far below what else is mapped: other threads' heaps and the like take
/// room where jumps might land, now here, now there.
const AWAY: usize = 16 << 30;
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// Maps the executable segments of a file where there is room around.
pub fn map(path: &str) -> Image {
    let bytes = std::fs::read(path).expect("the file");
    let file = std::fs::File::open(path).expect("the file");
    let elf = ElfFile::parse(&bytes).expect("an ELF file");
    let span = elf.segments().map(|s| s.vaddr + s.memory_len).max();
    let span = (span.expect("segments") + PAGE) as usize;
    let place = |start, len, protection, flags, fd, offset| {
        // SAFETY: at a place of the kernel's choice, or inside of that.
        let mapped = unsafe { libc::mmap(start, len, protection, flags, fd, offset) };
        assert_ne!(mapped, libc::MAP_FAILED);
        mapped
    };
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let anywhere = std::ptr::null_mut();
    let found = place(anywhere, span, libc::PROT_NONE, anonymous, -1, 0);
    // SAFETY: nobody knows these pages.
    unsafe { libc::munmap(found, span) };
    let base = place(
        found.wrapping_byte_sub(AWAY * (1 + MAPPED.fetch_add(1, Ordering::Relaxed))),
        span,
        libc::PROT_NONE,
        anonymous | libc::MAP_FIXED_NOREPLACE,
        -1,
        0,
    );
    let bias = base as u64;
    let mut text = Vec::new();
    for segment in elf.segments().filter(|segment| segment.executable) {
        let offset = segment.file.start & !(PAGE - 1);
        let start = bias + (segment.vaddr & !(PAGE - 1));
        let end = bias + segment.vaddr + (segment.file.end - segment.file.start);
        place(
            start as *mut libc::c_void,
            (end - start) as usize,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_FIXED,
            file.as_raw_fd(),
            offset as i64,
        );
        text.push(start as usize..(end.next_multiple_of(PAGE)) as usize);
    }
    let module = Arc::new(Module::new(&bytes, bias, &text).expect("a module"));
    Image::new(module, &elf, bias, &text)
}

/// A file that a loader has mapped: the one that `addr` is in.
pub fn of_loaded(addr: usize, module: Arc<Module>) -> Image {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
    let range = |line: &str| {
        let (start, rest) = line.split_once('-')?;
        let hex = |text| usize::from_str_radix(text, 16).ok();
        Some(hex(start)?..hex(rest.split(' ').next()?)?)
    };
    let here = |line: &&str| range(line).is_some_and(|range| range.contains(&addr));
    let line = maps.lines().find(here).expect("mapped");
    let text = range(line).expect("a range");
    let bytes = std::fs::read(&line[line.find('/').expect("a path")..]).expect("the file");
    let elf = ElfFile::parse(&bytes).expect("an ELF file");
    let segment = elf.segments().find(|segment| segment.executable);
    let segment = segment.expect("text");
    // The mapping begins on the page of the segment's first byte.
    let bias = text.start as u64 - (segment.vaddr & !(PAGE - 1));
    Image::new(module, &elf, bias, &[text])
}

impl Image {
    fn new(module: Arc<Module>, elf: &ElfFile<'_>, bias: u64, text: &[Range<usize>]) -> Image {
        let in_text = |addr: usize| text.iter().any(|range| range.contains(&addr));
        let functions = elf.functions();
        let ranges = functions
            .iter()
            .map(|f| (bias + f.range.start) as usize..(bias + f.range.end) as usize);
        Image {
            functions: ranges.filter(|range| in_text(range.start)).collect(),
            module,
            bias: bias as usize,
        }
    }

    /// Where functions start.
    pub fn starts(&self) -> Vec<usize> {
        self.functions.iter().map(|range| range.start).collect()
    }

    /// Where the instructions of a function start; fewer where it does not decode.
    pub fn instructions_of(&self, function: &Range<usize>) -> Vec<usize> {
        let bytes = self.module.original(function.start as u64, function.len());
        let mut decoder = Decoder::with_ip(
            64,
            bytes.unwrap_or_default(),
            function.start as u64,
            DecoderOptions::NONE,
        );
        let mut starts = Vec::new();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            if instruction.is_invalid() {
                break;
            }
            starts.push(instruction.ip() as usize);
        }
        starts
    }

    /// The instructions of a function as the file has them, without padding.
    pub fn code(&self, function: &Range<usize>) -> Vec<(usize, &[u8])> {
        let start = function.start as u64;
        let bytes = self.module.original(start, function.len());
        let bytes = bytes.unwrap_or_default();
        let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
        let mut code = Vec::new();
        while decoder.can_decode() {
            let from = decoder.position();
            let instruction = decoder.decode();
            if instruction.mnemonic() != Mnemonic::Nop {
                let bytes = &bytes[from..decoder.position()];
                code.push((instruction.ip() as usize, bytes));
            }
        }
        code
    }

    /// All instructions of all functions.
    pub fn instructions(&self) -> Vec<usize> {
        let mut all: Vec<_> = self
            .functions
            .iter()
            .flat_map(|function| self.instructions_of(function))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// One instruction of each function, by chance.
    pub fn one_instruction_each(&self, seed: u64) -> Vec<usize> {
        let mut state = seed;
        let mut picked = Vec::new();
        for function in &self.functions {
            // Knuth's linear congruence.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let starts = self.instructions_of(function);
            if !starts.is_empty() {
                picked.push(starts[(state >> 33) as usize % starts.len()]);
            }
        }
        picked
    }
}
