//! Room for an errand's code in a process: what follows the text of its
//! libraries up to the end of a page. Nothing of the target is there, and it
//! is executable already. It knows how rooms are claimed, not for what.

use std::fs;
use std::ops::Range;
use std::path::Path;

use nix::unistd::Pid;
use object::ElfFile;

use super::arch::errand::{self, Orders};
use super::maps::Mapping;
use super::target;
use super::thread::{self, Lost, Thread};

const PAGE: u64 = 4096;
/// As many are enough for every thread that was ever left with one.
const ENOUGH: usize = 8;
/// Larger files are not read for it.
const LARGEST: u64 = 32 << 20;

/// A place for one errand's code.
#[derive(Debug, Clone)]
pub struct Slot {
    range: Range<u64>,
    /// The thread that may be in the code that is there.
    owner: Option<Owner>,
    /// Whether nothing is there.
    empty: bool,
}

/// A thread that was sent on an errand; nobody saw it come back.
#[derive(Debug, Clone, Copy)]
struct Owner {
    tid: i32,
    /// Its mapping meanwhile.
    mapping: u64,
}

impl Slot {
    pub fn start(&self) -> u64 {
        self.range.start
    }

    pub fn contains(&self, address: u64) -> bool {
        self.range.contains(&address)
    }

    /// The thread that may be in it.
    pub fn owner(&self) -> Option<i32> {
        self.owner.map(|owner| owner.tid)
    }

    /// Whether a thread with these registers is on the errand.
    pub fn is_out(&self, instruction: u64, stack: u64) -> bool {
        let mapping = self.owner.map_or(0, |owner| owner.mapping);
        let on_its_stack = mapping != 0 && (mapping..=mapping + errand::LENGTH).contains(&stack);
        self.contains(instruction) || on_its_stack
    }

    fn at(pid: Pid, start: u64) -> Result<Self, Lost> {
        let mut bytes = vec![0; size()];
        thread::read(pid, start, &mut bytes)?;
        let owner = Orders::owner(&bytes).map(|(tid, mapping)| Owner { tid, mapping });
        Ok(Self {
            range: start..start + size() as u64,
            owner,
            empty: bytes.iter().all(|byte| *byte == 0),
        })
    }

    /// Notes the owner's mapping.
    pub fn note_mapping(&self, thread: &Thread, mapping: u64) -> Result<(), Lost> {
        thread.poke(self.start() + errand::MAPPING, &mapping.to_ne_bytes())
    }

    /// Writes a copy of the code, its mark first.
    pub fn fill(&self, thread: &Thread, copy: &[u8]) -> Result<(), Lost> {
        let mut bytes = copy.to_vec();
        bytes.resize(size(), 0);
        thread.poke(self.start(), &bytes)
    }

    /// Makes it empty, the mark last.
    pub fn clear(&self, thread: &Thread) -> Result<(), Lost> {
        let offsets = (0..size()).step_by(8).rev();
        offsets
            .map(|offset| self.start() + offset as u64)
            .try_for_each(|at| thread.poke(at, &[0; 8]))
    }
}

fn size() -> usize {
    errand::size().next_multiple_of(64)
}

/// All slots in a process, whoever owns them.
pub fn all(pid: Pid, mappings: &[Mapping]) -> Vec<Slot> {
    let mut slots = Vec::new();
    let text = mappings
        .iter()
        .filter(|mapping| mapping.executable && mapping.private);
    for mapping in text {
        if slots.len() >= ENOUGH {
            break;
        }
        let Some(file) = target::file_of(pid, mapping) else {
            continue;
        };
        let Some(end) = text_end(&file, mapping) else {
            continue;
        };
        let mut start = end.next_multiple_of(64);
        while start + size() as u64 <= mapping.range.end && slots.len() < ENOUGH {
            slots.extend(Slot::at(pid, start));
            start += size() as u64;
        }
    }
    slots
}

/// Where in an executable mapping the file's text ends, if that is on its last
/// page.
fn text_end(file: &Path, mapping: &Mapping) -> Option<u64> {
    let metadata = fs::metadata(file).ok()?;
    if metadata.len() > LARGEST {
        return None;
    }
    let bytes = fs::read(file).ok()?;
    let elf = ElfFile::parse(&bytes).ok()?;
    let length = mapping.range.end - mapping.range.start;
    let segments = elf.segments();
    let ends = segments.filter_map(|segment| {
        let to = segment.file.end;
        let here = mapping.offset..mapping.offset + length;
        let last = here.contains(&to) && here.end - to < PAGE;
        (last && segment.executable).then(|| mapping.range.start + (to - mapping.offset))
    });
    ends.max()
}

/// A slot that the `thread`, which is at a safe point, may use: one that was
/// its own, or one that nobody uses.
pub fn for_thread(slots: &[Slot], tid: Pid) -> Option<&Slot> {
    let own = slots.iter().find(|slot| slot.owner() == Some(tid.as_raw()));
    own.or_else(|| slots.iter().find(|slot| slot.empty))
}
