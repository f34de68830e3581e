//! One ELF file: its kind, segments and symbols. It does not know where, or
//! whether, the file is loaded.

use std::ops::Range;

use goblin::elf::dynamic::DF_1_PIE;
use goblin::elf::header::{EM_386, EM_AARCH64, EM_ARM, EM_RISCV, EM_X86_64};
use goblin::elf::header::{ET_CORE, ET_DYN, ET_EXEC, ET_REL};
use goblin::elf::note::NT_GNU_BUILD_ID;
use goblin::elf::program_header::{PF_W, PF_X, PT_LOAD};
use goblin::elf::section_header::{SHF_EXECINSTR, SHN_UNDEF, SHT_NOBITS};
use goblin::elf::sym::{STT_FUNC, STT_GNU_IFUNC, STT_OBJECT};
use goblin::elf::{Elf, SectionHeader};

use crate::error::ObjectError;
use crate::functions::Functions;

/// Width of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// `ELFCLASS32`.
    Elf32,
    /// `ELFCLASS64`.
    Elf64,
}

/// Processor that the file is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// `EM_X86_64`; with [`Class::Elf32`] it is x32.
    X86_64,
    /// `EM_386`.
    I386,
    /// `EM_AARCH64`.
    Aarch64,
    /// `EM_ARM`.
    Arm,
    /// `EM_RISCV`.
    Riscv,
    /// Any other `e_machine`.
    Other(u16),
}

/// What the file is to the kernel and the dynamic linker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A program that names an interpreter: shared libraries, preloading.
    DynamicExecutable,
    /// A program without an interpreter, static-pie among them.
    StaticExecutable,
    /// A library, runnable by itself or not.
    SharedLibrary,
    /// An object file, eBPF objects among them.
    Relocatable,
    /// A core dump.
    Core,
    /// Any other `e_type`.
    Other(u16),
}

/// One `PT_LOAD` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Bytes of the file.
    pub file: Range<u64>,
    /// Link-time address of the first byte.
    pub vaddr: u64,
    /// Bytes in memory, zeros beyond the file's.
    pub memory_len: u64,
    /// Whether it is mapped executable.
    pub executable: bool,
    /// Whether it is mapped writable.
    pub writable: bool,
}

/// What a symbol stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SymbolKind {
    /// `STT_FUNC`.
    Function,
    /// `STT_GNU_IFUNC`: the function that picks the function.
    Ifunc,
    /// `STT_OBJECT`.
    Object,
    /// Any other type.
    Other,
}

/// One defined symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol<'a> {
    /// Name without version.
    pub name: &'a str,
    /// Link-time address.
    pub address: u64,
    /// Bytes, 0 when the file does not say.
    pub size: u64,
    /// What it stands for.
    pub kind: SymbolKind,
}

/// A parsed ELF file over borrowed bytes.
#[derive(Debug)]
pub struct ElfFile<'a> {
    elf: Elf<'a>,
    bytes: &'a [u8],
}

impl<'a> ElfFile<'a> {
    /// Parses headers and tables; code is not looked at.
    ///
    /// Errors: [`ObjectError::NotElf`], [`ObjectError::Damaged`].
    pub fn parse(bytes: &'a [u8]) -> Result<ElfFile<'a>, ObjectError> {
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ObjectError::NotElf);
        }
        Ok(ElfFile {
            elf: Elf::parse(bytes)?,
            bytes,
        })
    }

    /// Width of addresses.
    pub fn class(&self) -> Class {
        if self.elf.is_64 {
            Class::Elf64
        } else {
            Class::Elf32
        }
    }

    /// Processor that the file is for.
    pub fn machine(&self) -> Machine {
        match self.elf.header.e_machine {
            EM_X86_64 => Machine::X86_64,
            EM_386 => Machine::I386,
            EM_AARCH64 => Machine::Aarch64,
            EM_ARM => Machine::Arm,
            EM_RISCV => Machine::Riscv,
            other => Machine::Other(other),
        }
    }

    /// What the file is. A library that names an interpreter so that it can be
    /// run by itself (libc.so.6) is a library.
    pub fn kind(&self) -> FileKind {
        match self.elf.header.e_type {
            ET_REL => FileKind::Relocatable,
            ET_CORE => FileKind::Core,
            ET_EXEC if self.elf.interpreter.is_some() => FileKind::DynamicExecutable,
            ET_EXEC => FileKind::StaticExecutable,
            ET_DYN => match (self.elf.interpreter.is_some(), self.is_pie()) {
                (true, true) => FileKind::DynamicExecutable,
                (false, true) => FileKind::StaticExecutable,
                (true, false) if self.elf.soname.is_none() => FileKind::DynamicExecutable,
                _ => FileKind::SharedLibrary,
            },
            other => FileKind::Other(other),
        }
    }

    /// Whether the linker marked the file as a position-independent program.
    pub fn is_pie(&self) -> bool {
        let dynamic = self.elf.dynamic.as_ref();
        dynamic.is_some_and(|dynamic| dynamic.info.flags_1 & DF_1_PIE != 0)
    }

    /// `PT_INTERP`: path of the dynamic linker, such as
    /// `/lib64/ld-linux-x86-64.so.2` or `/lib/ld-musl-x86_64.so.1`.
    pub fn interpreter(&self) -> Option<&'a str> {
        self.elf.interpreter
    }

    /// `DT_NEEDED` entries in order.
    pub fn needed(&self) -> &[&'a str] {
        &self.elf.libraries
    }

    /// `DT_SONAME`.
    pub fn soname(&self) -> Option<&'a str> {
        self.elf.soname
    }

    /// Link-time address of the first instruction, 0 for none.
    pub fn entry(&self) -> u64 {
        self.elf.entry
    }

    /// Whether the Go toolchain linked the file.
    pub fn is_go(&self) -> bool {
        let mut names = self
            .elf
            .section_headers
            .iter()
            .map(|s| self.section_name(s));
        names.any(|name| {
            matches!(
                name,
                ".go.buildinfo" | ".gopclntab" | ".data.rel.ro.gopclntab" | ".note.go.buildid"
            )
        })
    }

    /// `PT_LOAD` entries in file order.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let loads = self
            .elf
            .program_headers
            .iter()
            .filter(|p| p.p_type == PT_LOAD);
        loads.map(|p| Segment {
            file: p.p_offset..p.p_offset.saturating_add(p.p_filesz),
            vaddr: p.p_vaddr,
            memory_len: p.p_memsz,
            executable: p.p_flags & PF_X != 0,
            writable: p.p_flags & PF_W != 0,
        })
    }

    /// Link-time address of a byte of the file, executable segments first: the
    /// same byte may be mapped twice where segments share a page.
    pub fn address_of_offset(&self, offset: u64) -> Option<u64> {
        let mut holders: Vec<_> = self
            .segments()
            .filter(|s| s.file.contains(&offset))
            .collect();
        holders.sort_by_key(|s| !s.executable);
        let holder = holders.first()?;
        holder.vaddr.checked_add(offset - holder.file.start)
    }

    /// File offset of a link-time address, `None` for what is not in the file.
    pub fn offset_of_address(&self, address: u64) -> Option<u64> {
        self.segments().find_map(|s| {
            let inside = address.checked_sub(s.vaddr)?;
            (inside < s.file.end - s.file.start).then_some(s.file.start + inside)
        })
    }

    /// Bytes of the file, cut to its length.
    pub fn file_bytes(&self, range: Range<u64>) -> &'a [u8] {
        let end =
            usize::try_from(range.end).map_or(self.bytes.len(), |end| end.min(self.bytes.len()));
        let start = usize::try_from(range.start).map_or(end, |start| start.min(end));
        &self.bytes[start..end]
    }

    /// Defined symbols of both symbol tables, aliases and duplicates included.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol<'a>> + '_ {
        let full = self.elf.syms.iter().map(|sym| (sym, &self.elf.strtab));
        let dynamic = self
            .elf
            .dynsyms
            .iter()
            .map(|sym| (sym, &self.elf.dynstrtab));
        let defined = full
            .chain(dynamic)
            .filter(|(sym, _)| sym.st_shndx != SHN_UNDEF as usize);
        defined.filter_map(|(sym, names)| {
            let kind = match sym.st_type() {
                STT_FUNC => SymbolKind::Function,
                STT_GNU_IFUNC => SymbolKind::Ifunc,
                STT_OBJECT => SymbolKind::Object,
                _ => SymbolKind::Other,
            };
            Some(Symbol {
                name: names.get_at(sym.st_name)?,
                address: sym.st_value,
                size: sym.st_size,
                kind,
            })
        })
    }

    /// The address of a defined function by its exact name.
    pub fn function_address(&self, name: &str) -> Option<u64> {
        let is_function =
            |s: &Symbol<'_>| matches!(s.kind, SymbolKind::Function | SymbolKind::Ifunc);
        self.symbols()
            .find(|s| s.name == name && is_function(s))
            .map(|s| s.address)
    }

    /// The build id that the linker noted.
    pub fn build_id(&self) -> Option<&'a [u8]> {
        let (_, note) = self.section(".note.gnu.build-id")?;
        // {name's size, size, type}, name, id.
        let (header, rest) = note.split_at_checked(12)?;
        let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let (name, id) = rest.split_at_checked(4)?;
        let is_id = word(0)? == 4 && word(8)? == NT_GNU_BUILD_ID && name == b"GNU\0";
        id.get(..word(4)? as usize).filter(|_| is_id)
    }

    /// Function starts and bounds.
    pub fn functions(&self) -> Functions {
        Functions::of(self)
    }

    /// Bytes and link-time address of a section that is in the file.
    pub fn section(&self, name: &str) -> Option<(u64, &'a [u8])> {
        let header = self
            .elf
            .section_headers
            .iter()
            .find(|s| self.section_name(s) == name)?;
        if header.sh_type == SHT_NOBITS {
            return None;
        }
        let end = header.sh_offset.saturating_add(header.sh_size);
        Some((header.sh_addr, self.file_bytes(header.sh_offset..end)))
    }

    /// Address ranges of executable sections with their names.
    pub(crate) fn code_sections(&self) -> impl Iterator<Item = (&'a str, Range<u64>)> + '_ {
        let code = self.elf.section_headers.iter();
        code.filter(|s| s.sh_flags & u64::from(SHF_EXECINSTR) != 0)
            .map(|s| {
                (
                    self.section_name(s),
                    s.sh_addr..s.sh_addr.saturating_add(s.sh_size),
                )
            })
    }

    fn section_name(&self, header: &SectionHeader) -> &'a str {
        self.elf.shdr_strtab.get_at(header.sh_name).unwrap_or("")
    }
}
