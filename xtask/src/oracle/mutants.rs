//! Objects that differ from a good one in one instruction or two: real
//! programs that are almost right, for both verifiers to judge. It knows no
//! verdict.

use std::ops::Range;

use anyhow::{Context, Result};
use goblin::elf::{Elf, sym::STT_FUNC};
use uapi::Insn;

#[path = "../../../vm/tests/verifier/mutate.rs"]
mod mutate;

use mutate::{Stream, mutate};

const INSN: usize = size_of::<Insn>();
/// Where clang puts functions that are not programs.
const SUBPROGRAMS: &str = ".text";

/// An object and where its functions are.
pub struct Original {
    bytes: Vec<u8>,
    /// Programs' functions by name, and all others.
    programs: Vec<(String, Range<usize>)>,
    subprograms: Vec<Range<usize>>,
}

impl Original {
    /// Finds the functions.
    pub fn parse(bytes: Vec<u8>) -> Result<Original> {
        let elf = Elf::parse(&bytes).context("not an ELF file")?;
        let (mut programs, mut subprograms) = (Vec::new(), Vec::new());
        for symbol in elf.syms.iter().filter(|s| s.st_type() == STT_FUNC) {
            let Some(section) = elf.section_headers.get(symbol.st_shndx) else {
                continue;
            };
            let start = (section.sh_offset + symbol.st_value) as usize;
            let range = start..start + symbol.st_size as usize;
            if range.end > bytes.len() || range.len() < 2 * INSN || section.sh_size == 0 {
                continue;
            }
            match elf.shdr_strtab.get_at(section.sh_name) {
                Some(SUBPROGRAMS) => subprograms.push(range),
                _ => {
                    let name = elf.strtab.get_at(symbol.st_name).unwrap_or_default();
                    programs.push((name.to_owned(), range));
                }
            }
        }
        Ok(Original {
            bytes,
            programs,
            subprograms,
        })
    }

    /// The object with one program changed, or a function that it may call.
    /// The same seed gives the same bytes; None without such a program.
    pub fn mutant(&self, program: &str, seed: u64) -> Option<Vec<u8>> {
        let stream = Stream::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let own = self.programs.iter().find(|(name, _)| name == program)?;
        let mut range = own.1.clone();
        if !self.subprograms.is_empty() && stream.below(4) == 0 {
            range = self.subprograms[stream.below(self.subprograms.len())].clone();
        }
        let mut bytes = self.bytes.clone();
        let (words, _) = bytes[range.clone()].as_chunks::<INSN>();
        let mut insns: Vec<Insn> = words.iter().map(|word| Insn::from_bytes(*word)).collect();
        for _ in 0..=stream.below(2) {
            mutate(&stream, &mut insns);
        }
        let changed: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
        bytes[range][..changed.len()].copy_from_slice(&changed);
        (bytes != self.bytes).then_some(bytes)
    }
}
