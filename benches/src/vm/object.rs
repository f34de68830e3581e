//! Reads a compiled program: the section `bench` with the function `run`, the
//! functions it calls, constants and maps. It knows no engine.

use anyhow::{Context, Result, bail};
use goblin::elf::{Elf, SectionHeader, Sym};
use uapi::Insn;
use uapi::insn::{BPF_CALL, BPF_JMP, BPF_PSEUDO_CALL, BPF_PSEUDO_MAP_VALUE};
use uapi::insn::{BPF_DW, BPF_IMM, BPF_LD, BPF_LDX, BPF_MEM, BPF_PSEUDO_MAP_FD};

const R_BPF_64_64: u32 = 1;
const R_BPF_64_32: u32 = 10;

/// What one object id stands for.
pub enum Object {
    /// A section of constants.
    Constants(Vec<u8>),
    /// A map that the program declares: its `struct bench_map`.
    Map {
        name: String,
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
    },
}

/// A program whose entry takes a pointer to {address, length} of memory.
pub struct Program {
    pub insns: Vec<Insn>,
    /// By object id - 1.
    pub objects: Vec<Object>,
}

/// `r2 = length; r1 = address`, from what r1 points to.
fn prologue() -> [Insn; 2] {
    let load = |dst, off| Insn::new(BPF_LDX | BPF_MEM | BPF_DW, dst, 1, off, 0);
    [load(2, 8), load(1, 0)]
}

/// A symbol's place in the program or among its objects.
enum Place {
    Slot(usize),
    Object { id: usize, offset: u64 },
}

struct Reader<'a> {
    elf: Elf<'a>,
    bytes: &'a [u8],
    insns: Vec<Insn>,
    objects: Vec<Object>,
    /// Section index, and where its first instruction is.
    code: Vec<(usize, usize)>,
    /// Section index and object id of constants.
    constants: Vec<(usize, usize)>,
}

impl Program {
    /// Reads an object file.
    pub fn read(bytes: &[u8]) -> Result<Program> {
        let mut reader = Reader {
            elf: Elf::parse(bytes)?,
            bytes,
            insns: prologue().to_vec(),
            objects: Vec::new(),
            code: Vec::new(),
            constants: Vec::new(),
        };
        for section in ["bench", ".text"] {
            reader.append_code(section)?;
        }
        reader.append_constants()?;
        reader.relocate()?;
        Ok(Program {
            insns: reader.insns,
            objects: reader.objects,
        })
    }

    /// The instructions that begin with memory in r1 and its length in r2.
    pub fn without_prologue(&self) -> &[Insn] {
        &self.insns[prologue().len()..]
    }

    /// The instructions as bytes, with the addresses of objects in them: for
    /// engines that know neither maps nor constants.
    pub fn bytes(&self, address: impl Fn(u32, u32) -> Result<u64>) -> Result<Vec<u8>> {
        let mut insns = self.insns.clone();
        for at in 0..insns.len() {
            if insns[at].code != BPF_LD | BPF_IMM | BPF_DW || insns[at].src() == 0 {
                continue;
            }
            let value = address(insns[at].imm as u32, insns[at + 1].imm as u32)?;
            insns[at] = Insn::new(insns[at].code, insns[at].dst(), 0, 0, value as u32 as i32);
            insns[at + 1].imm = (value >> 32) as i32;
        }
        Ok(insns.iter().flat_map(|insn| insn.to_bytes()).collect())
    }

    /// Whether it has functions that call others, and a stack.
    pub fn has_frames(&self) -> bool {
        let call = |insn: &Insn| insn.code == BPF_JMP | BPF_CALL && insn.src() == BPF_PSEUDO_CALL;
        let stack = |insn: &Insn| insn.dst() == 10 || insn.src() == 10;
        self.insns.iter().any(call) && self.insns.iter().any(stack)
    }

    /// Whether it calls helpers.
    pub fn has_maps(&self) -> bool {
        let is_map = |object: &Object| matches!(object, Object::Map { .. });
        self.objects.iter().any(is_map)
    }
}

impl Reader<'_> {
    fn name(&self, section: &SectionHeader) -> &str {
        let name = self.elf.shdr_strtab.get_at(section.sh_name);
        name.unwrap_or_default()
    }

    fn contents(&self, section: &SectionHeader) -> Result<&[u8]> {
        let range = section.file_range().context("a section without bytes")?;
        self.bytes.get(range).context("a section beyond the file")
    }

    fn append_code(&mut self, wanted: &str) -> Result<()> {
        let mut sections = self.elf.section_headers.iter().enumerate();
        let Some((index, section)) = sections.find(|(_, s)| self.name(s) == wanted) else {
            bail!("no section {wanted}");
        };
        let chunks = self.contents(section)?.chunks_exact(8);
        let insns: Vec<Insn> = chunks
            .map(|chunk| Insn::from_bytes(chunk.try_into().expect("eight bytes")))
            .collect();
        self.code.push((index, self.insns.len()));
        self.insns.extend(insns);
        Ok(())
    }

    fn append_constants(&mut self) -> Result<()> {
        for (index, section) in self.elf.section_headers.iter().enumerate() {
            let name = self.name(section);
            if name.starts_with(".rodata") {
                let constants = self.contents(section)?.to_vec();
                self.objects.push(Object::Constants(constants));
                self.constants.push((index, self.objects.len()));
            } else if [".data", ".bss"].iter().any(|w| name.starts_with(w)) {
                bail!("a program may not have variables ({name})");
            }
        }
        Ok(())
    }

    /// The object id of the map that a symbol names.
    fn map(&mut self, symbol: &Sym) -> Result<usize> {
        let wanted = self.elf.strtab.get_at(symbol.st_name);
        let wanted = wanted.context("a map without a name")?.to_owned();
        let known = |o: &Object| matches!(o, Object::Map { name, .. } if *name == wanted);
        if let Some(at) = self.objects.iter().position(known) {
            return Ok(at + 1);
        }
        let section = &self.elf.section_headers[symbol.st_shndx];
        let start = symbol.st_value as usize;
        let fields = self.contents(section)?.get(start..start + 16);
        let fields = fields.context("a map beyond its section")?;
        let field = |at: usize| u32::from_le_bytes(fields[at..at + 4].try_into().expect("four"));
        self.objects.push(Object::Map {
            map_type: field(0),
            key_size: field(4),
            value_size: field(8),
            max_entries: field(12),
            name: wanted,
        });
        Ok(self.objects.len())
    }

    fn place(&mut self, symbol: &Sym) -> Result<Place> {
        let section = symbol.st_shndx;
        if let Some(&(_, start)) = self.code.iter().find(|(index, _)| *index == section) {
            return Ok(Place::Slot(start + symbol.st_value as usize / 8));
        }
        if let Some(&(_, id)) = self.constants.iter().find(|(index, _)| *index == section) {
            let offset = symbol.st_value;
            return Ok(Place::Object { id, offset });
        }
        Ok(Place::Object {
            id: self.map(symbol)?,
            offset: 0,
        })
    }

    fn relocate(&mut self) -> Result<()> {
        let mut relocations = Vec::new();
        for (index, section) in &self.elf.shdr_relocs {
            let target = self.elf.section_headers[*index].sh_info as usize;
            if let Some(&(_, start)) = self.code.iter().find(|(code, _)| *code == target) {
                relocations.extend(section.iter().map(|relocation| (start, relocation)));
            }
        }
        for (start, relocation) in relocations {
            let symbol = self.elf.syms.get(relocation.r_sym);
            let place = self.place(&symbol.context("no such symbol")?)?;
            let at = start + relocation.r_offset as usize / 8;
            self.patch(at, relocation.r_type, place)?;
        }
        Ok(())
    }

    fn patch(&mut self, at: usize, kind: u32, place: Place) -> Result<()> {
        let insn = self.insns[at];
        match (kind, place) {
            // The immediate is the offset into the section, less this instruction.
            (R_BPF_64_32, Place::Slot(slot)) => {
                let rel = slot as i32 + insn.imm - at as i32;
                self.insns[at] = Insn::new(insn.code, 0, BPF_PSEUDO_CALL, 0, rel);
            }
            (R_BPF_64_64, Place::Object { id, offset }) => {
                let is_map = matches!(self.objects[id - 1], Object::Map { .. });
                let kind = if is_map {
                    BPF_PSEUDO_MAP_FD
                } else {
                    BPF_PSEUDO_MAP_VALUE
                };
                self.insns[at] = Insn::new(insn.code, insn.dst(), kind, 0, id as i32);
                self.insns[at + 1].imm = offset as i32 + insn.imm;
            }
            (kind, _) => bail!("relocation {kind} at {at}"),
        }
        Ok(())
    }
}
