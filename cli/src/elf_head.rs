//! The head of an ELF program: what decides whether the kernel and `ld.so`
//! can start it with a preloaded library. It reads a few hundred bytes, so
//! that starting a large program stays cheap, and knows no symbols; those are
//! `object`'s.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

const IDENT: usize = 16;
const EI_CLASS: usize = 4;
const ELFCLASS32: u8 = 1;
const ELFCLASS64: u8 = 2;
const EM_X86_64: u16 = 62;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_INTERP: u32 = 3;
/// sizeof(Elf64_Ehdr), sizeof(Elf64_Phdr).
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// What the head of a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// Starts with something else.
    NotElf,
    /// Ends early or contradicts itself.
    Damaged,
    /// For 32-bit address spaces.
    Bits32,
    /// For another processor.
    OtherMachine,
    /// Neither program nor library.
    NotProgram,
    /// A program or library, with the dynamic loader it names.
    Program {
        /// PT_INTERP.
        interpreter: Option<Vec<u8>>,
    },
}

impl Head {
    /// Reads the head of `file`.
    pub fn read(file: &File) -> io::Result<Self> {
        let mut header = [0; HEADER];
        let length = read_at(file, &mut header, 0)?;
        if !header.starts_with(b"\x7fELF") {
            return Ok(Self::NotElf);
        }
        match header[EI_CLASS] {
            ELFCLASS32 if length >= IDENT => return Ok(Self::Bits32),
            ELFCLASS64 if length == HEADER => {}
            _ => return Ok(Self::Damaged),
        }
        if u16_at(&header, 18) != EM_X86_64 {
            return Ok(Self::OtherMachine);
        }
        if !matches!(u16_at(&header, 16), ET_EXEC | ET_DYN) {
            return Ok(Self::NotProgram);
        }
        let (table, size, count) = (
            u64_at(&header, 32),
            u16_at(&header, 54),
            u16_at(&header, 56),
        );
        if usize::from(size) != PROGRAM_HEADER {
            return Ok(Self::Damaged);
        }
        for index in 0..u64::from(count) {
            let mut entry = [0; PROGRAM_HEADER];
            let offset = table.saturating_add(index * PROGRAM_HEADER as u64);
            if read_at(file, &mut entry, offset)? != PROGRAM_HEADER {
                return Ok(Self::Damaged);
            }
            if u32_at(&entry, 0) == PT_INTERP {
                return interpreter(file, u64_at(&entry, 8), u64_at(&entry, 32));
            }
        }
        Ok(Self::Program { interpreter: None })
    }
}

/// Whether a dynamic loader's path is musl's.
pub fn is_musl(interpreter: &[u8]) -> bool {
    let name = interpreter
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    name.starts_with(b"ld-musl")
}

fn interpreter(file: &File, offset: u64, size: u64) -> io::Result<Head> {
    // The kernel's own bounds (load_elf_binary, fs/binfmt_elf.c).
    let size = match usize::try_from(size) {
        Ok(size) if (2..=libc::PATH_MAX as usize).contains(&size) => size,
        _ => return Ok(Head::Damaged),
    };
    let mut name = vec![0; size];
    if read_at(file, &mut name, offset)? != size || name.pop() != Some(0) {
        return Ok(Head::Damaged);
    }
    Ok(Head::Program {
        interpreter: Some(name),
    })
}

/// Reads until `buffer` is full or the file ends.
pub fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn bytes<const N: usize>(table: &[u8], offset: usize) -> [u8; N] {
    let mut found = [0; N];
    found.copy_from_slice(&table[offset..offset + N]);
    found
}

fn u16_at(table: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes(table, offset))
}

fn u32_at(table: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes(table, offset))
}

fn u64_at(table: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes(table, offset))
}
