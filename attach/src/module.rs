//! The text of one loaded ELF file: original bytes, functions, padding. It
//! knows no hook.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, OnceLock};

use object::{
    Class, ElfFile, FileKind, Function, Functions, Machine, ObjectError, Origin, SymbolKind,
};
use thiserror::Error;

use crate::arch::decode::First;
use crate::arch::flow::Flow;
use crate::error::Refusal;

/// Longest function whose end is looked at to prove that padding is dead.
const LONGEST_DECODED: u64 = 1 << 16;
/// Enough for any instruction.
const LONGEST_INSTRUCTION: u64 = 15;
/// Longest space between functions that is taken for padding.
pub(crate) const LONGEST_PADDING: u64 = 64;

/// Why a file cannot be understood as the origin of text in memory.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// Not an ELF file, or a damaged one.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// For another processor or address width.
    #[error("not a 64-bit x86-64 file")]
    Machine,
}

/// One piece of text in memory with what the file has for it.
#[derive(Debug)]
struct Text {
    range: Range<u64>,
    bytes: Box<[u8]>,
    /// Found when first asked for: it takes a look at every instruction.
    flow: OnceLock<Flow>,
}

/// One loaded ELF file: where its text lies in this process and what the file
/// says should be there.
#[derive(Debug, Default)]
pub struct Module {
    bias: u64,
    text: Vec<Text>,
    functions: Functions,
    /// The dead padding behind functions that were looked at, by link-time
    /// start: a probe asks for that of all functions near by.
    padding: Mutex<HashMap<u64, Option<Range<u64>>>>,
    /// Functions by link-time address that cannot be return-probed, by name.
    odd: HashMap<u64, Refusal>,
    /// Restartable sequences, link-time addresses.
    restartable: Vec<Range<u64>>,
    is_go: bool,
    /// The library that this engine is part of; a program that has the engine
    /// linked in is on its own.
    is_own: bool,
    /// It was made by [`Module::of_memory`].
    is_memory: bool,
}

impl Module {
    /// Describes a module from its file's bytes, its load bias (`l_addr`, what
    /// is added to the file's addresses) and the executable ranges of memory
    /// that are mapped from it.
    ///
    /// Errors: [`ModuleError`].
    pub fn new(file: &[u8], bias: u64, mapped: &[Range<usize>]) -> Result<Module, ModuleError> {
        let elf = ElfFile::parse(file)?;
        if elf.class() != Class::Elf64 || elf.machine() != Machine::X86_64 {
            return Err(ModuleError::Machine);
        }
        let mut text = Vec::new();
        for segment in elf.segments().filter(|segment| segment.executable) {
            let bytes = elf.file_bytes(segment.file);
            let start = bias.wrapping_add(segment.vaddr);
            for range in mapped {
                let from = start.max(range.start as u64);
                let to = start
                    .saturating_add(bytes.len() as u64)
                    .min(range.end as u64);
                if from < to {
                    text.push(Text {
                        range: from..to,
                        bytes: bytes[(from - start) as usize..(to - start) as usize].into(),
                        flow: OnceLock::new(),
                    });
                }
            }
        }
        let functions = elf
            .symbols()
            .filter(|s| matches!(s.kind, SymbolKind::Function | SymbolKind::Ifunc));
        let odd = functions.filter_map(|s| odd_return(s.name).map(|refusal| (s.address, refusal)));
        let is_here = text
            .iter()
            .any(|text: &Text| text.range.contains(&crate::arch::entry::address()));
        Ok(Module {
            bias,
            text,
            is_memory: false,
            is_own: is_here && elf.kind() == FileKind::SharedLibrary,
            padding: Mutex::default(),
            odd: odd.collect(),
            restartable: restartable_sequences(&elf),
            is_go: elf.is_go(),
            functions: elf.functions(),
        })
    }

    /// Describes text that no file has: what memory at `start` holds now.
    pub fn of_memory(start: usize, bytes: &[u8]) -> Module {
        let start = start as u64;
        Module {
            bias: 0,
            text: vec![Text {
                range: start..start + bytes.len() as u64,
                bytes: bytes.into(),
                flow: OnceLock::new(),
            }],
            is_memory: true,
            ..Module::default()
        }
    }

    /// Whether it has no file.
    pub(crate) fn is_memory(&self) -> bool {
        self.is_memory
    }

    /// Start addresses in this process of all functions with a symbol.
    pub fn function_entries(&self) -> Vec<usize> {
        let functions = self.functions.iter().filter(|f| f.origin == Origin::Symbol);
        let entries = functions.map(|f| self.bias.wrapping_add(f.range.start));
        entries
            .filter(|addr| self.original(*addr, 1).is_some())
            .map(|addr| addr as usize)
            .collect()
    }

    /// Whether memory holds the file's bytes for the whole function at `addr`:
    /// nobody, we included, has changed it.
    pub fn is_original_function(&self, addr: usize) -> bool {
        let bytes = self.functions.at((addr as u64).wrapping_sub(self.bias));
        let len = bytes.map_or(0, |function| function.range.end - function.range.start);
        self.is_original(&(addr as u64..addr as u64 + len))
    }

    /// Whether memory holds what the file has.
    pub(crate) fn is_original(&self, range: &Range<u64>) -> bool {
        let len = (range.end - range.start) as usize;
        match self.original(range.start, len) {
            Some(original) if original.len() == len => {
                original.iter().enumerate().all(|(i, byte)| {
                    // SAFETY: the module's text is mapped readable in this process.
                    *byte == unsafe { ((range.start + i as u64) as *const u8).read_volatile() }
                })
            }
            _ => false,
        }
    }

    /// At most `len` original bytes from `addr` on, to the end of the text.
    pub fn original(&self, addr: u64, len: usize) -> Option<&[u8]> {
        let text = self.text.iter().find(|text| text.range.contains(&addr))?;
        let from = (addr - text.range.start) as usize;
        text.bytes.get(from..text.bytes.len().min(from + len))
    }

    /// Where its text is.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let ranges = self.text.iter().map(|text| &text.range);
        ranges.map(|range| range.start as usize..range.end as usize)
    }

    /// The pieces of text: where each lies, and its original bytes.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let pieces = self.text.iter();
        pieces.map(|text| (text.range.start, &text.bytes[..]))
    }

    /// The code that decodes from its start and holds `addr`: the last function
    /// that starts at or before it, to the next one.
    pub(crate) fn code_around(&self, addr: u64) -> Option<Range<u64>> {
        let inside = addr.wrapping_sub(self.bias);
        let function = self.functions.before(inside)?;
        let next = self.functions.starting_in(inside + 1..u64::MAX).first();
        let end = next.map_or(function.range.end.max(inside + 2), |next| next.range.start);
        Some(self.bias.wrapping_add(function.range.start)..self.bias.wrapping_add(end))
    }

    /// Whether `addr` lies in a function that the file tells of.
    pub(crate) fn is_in_function(&self, addr: u64) -> bool {
        let inside = addr.wrapping_sub(self.bias);
        let function = self.functions.before(inside);
        function.is_some_and(|function| function.range.contains(&inside))
    }

    /// Whether a function starts at `addr`.
    pub(crate) fn starts_function(&self, addr: u64) -> bool {
        self.functions.at(addr.wrapping_sub(self.bias)).is_some()
    }

    /// Whether this is the library that runs the probes.
    pub(crate) fn is_own(&self) -> bool {
        self.is_own
    }

    /// Original bytes of the function that starts at `addr`, if one is known
    /// to and it is not too long to be looked at.
    pub(crate) fn function_bytes(&self, addr: u64) -> Option<&[u8]> {
        let function = self.functions.at(addr.wrapping_sub(self.bias))?;
        let len = function.range.end - function.range.start;
        if len > LONGEST_DECODED {
            return None;
        }
        let bytes = self.original(addr, len as usize)?;
        (bytes.len() as u64 == len).then_some(bytes)
    }

    /// How control flows in the text that holds `addr`.
    pub(crate) fn flow(&self, addr: u64) -> Option<&Flow> {
        let text = self.text.iter().find(|text| text.range.contains(&addr))?;
        Some(text.flow.get_or_init(|| {
            let here = |addr: &u64| text.range.contains(addr);
            let functions = self.functions.iter().map(|function| {
                let start = self.bias.wrapping_add(function.range.start);
                let end = self.bias.wrapping_add(function.range.end);
                start..end.min(text.range.end)
            });
            let functions: Vec<_> = functions.filter(|f| here(&f.start)).collect();
            Flow::of(&text.range, &text.bytes, &functions)
        }))
    }

    /// The instruction before `addr`, if `addr` is reached from it and from
    /// nowhere else that a look at the text could tell.
    pub(crate) fn reached_from(&self, addr: u64) -> Option<u64> {
        let flow = self.flow(addr).filter(|_| self.is_inside_function(addr))?;
        if flow.is_unclear(addr) || flow.is_target_in(&(addr..addr + 1)) {
            return None;
        }
        let before = (addr.saturating_sub(LONGEST_INSTRUCTION)..addr).rev();
        let before = before.into_iter().find(|addr| flow.is_start(*addr))?;
        let first = self.instruction(before)?;
        (first.next() == addr && first.falls_through()).then_some(before)
    }

    fn instruction(&self, addr: u64) -> Option<First> {
        let bytes = self.original(addr, LONGEST_INSTRUCTION as usize)?;
        First::decode(bytes, addr).ok()
    }

    /// Whether `addr` is inside a known function, behind its start.
    pub(crate) fn is_inside_function(&self, addr: u64) -> bool {
        let inside = addr.wrapping_sub(self.bias);
        let function = self.functions.before(inside);
        function.is_some_and(|f| f.range.start < inside && inside < f.range.end)
    }

    /// Whether a function starts in `range`.
    pub(crate) fn has_start_in(&self, range: &Range<u64>) -> bool {
        let link_time = range.start.wrapping_sub(self.bias)..range.end.wrapping_sub(self.bias);
        !self.functions.starting_in(link_time).is_empty()
    }

    /// What stands against any probe at `addr`.
    pub(crate) fn entry_refusal(&self, addr: u64) -> Option<Refusal> {
        if self.is_own {
            return Some(Refusal::Own);
        }
        let inside = addr.wrapping_sub(self.bias);
        // The displaced instruction would run outside of the sequence.
        let restartable = self.restartable.iter().any(|range| range.contains(&inside));
        restartable.then_some(Refusal::Rseq)
    }

    /// Whether the kernel would put no uprobe at `addr`.
    pub(crate) fn is_refused_by_kernel(&self, addr: u64) -> bool {
        let bytes = self.original(addr, LONGEST_INSTRUCTION as usize);
        bytes.is_some_and(object::uprobe::is_refused)
    }

    /// What stands against a return probe at `addr`.
    pub(crate) fn return_refusal(&self, addr: u64) -> Option<Refusal> {
        let inside = addr.wrapping_sub(self.bias);
        if self.is_go {
            return Some(Refusal::Go);
        }
        match self.functions.at(inside) {
            Some(function) if function.origin == Origin::Symbol => self.odd.get(&inside).copied(),
            _ => Some(Refusal::NotFunction),
        }
    }

    /// Dead padding that starts in `range`: between functions, of padding
    /// instructions only, and nothing runs into it from above.
    pub(crate) fn padding_starting_in(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = Range<u64>> + '_ {
        let from = range.start.wrapping_sub(self.bias);
        let to = range.end.wrapping_sub(self.bias);
        // A function's end is in the range: it starts at most so much before.
        let before = self.functions.before(from).map_or(from, |f| f.range.start);
        let candidates = self.functions.starting_in(before..to).iter();
        candidates.filter_map(move |function| {
            let padding = self.padding_after(function)?;
            (padding.start >= range.start && padding.start < range.end).then_some(padding)
        })
    }

    /// The dead padding behind a function, at its address in this process.
    fn padding_after(&self, function: &Function) -> Option<Range<u64>> {
        // Nobody panics with the lock held.
        let mut known = self.padding.lock().ok()?;
        let known = known.entry(function.range.start);
        known
            .or_insert_with(|| self.find_padding_after(function))
            .clone()
    }

    fn find_padding_after(&self, function: &Function) -> Option<Range<u64>> {
        let end = function.range.end;
        let next = self
            .functions
            .starting_in(function.range.start + 1..u64::MAX)
            .first()?;
        let space = next.range.start.checked_sub(end)?;
        let len = end - function.range.start;
        if space == 0 || space > LONGEST_PADDING || len > LONGEST_DECODED {
            return None;
        }
        let start = self.bias.wrapping_add(function.range.start);
        let code = self.original(start, (len + space) as usize)?;
        if code.len() as u64 != len + space {
            return None;
        }
        let (code, padding) = code.split_at(len as usize);
        let is_dead =
            crate::arch::decode::is_padding(padding) && crate::arch::decode::ends_for_good(code);
        is_dead.then_some(start + len..start + len + space)
    }

    /// The dead padding behind the function that starts at `addr`.
    pub(crate) fn padding_of(&self, addr: u64) -> Option<Range<u64>> {
        self.padding_after(self.functions.at(addr.wrapping_sub(self.bias))?)
    }
}

/// Why a function of this name must keep its return address as it is.
fn odd_return(name: &str) -> Option<Refusal> {
    let name = name.split('@').next().unwrap_or(name);
    let bare = name.trim_start_matches('_');
    let bare = bare.strip_prefix("libc_").unwrap_or(bare);
    let is_odd = matches!(
        bare,
        "setjmp" | "sigsetjmp" | "longjmp" | "siglongjmp" | "longjmp_chk" | "longjmp_cancel"
    ) || matches!(bare, "vfork" | "clone" | "clone2" | "clone3")
        || bare.starts_with("clone_internal")
        || matches!(
            bare,
            "getcontext"
                | "setcontext"
                | "swapcontext"
                | "makecontext"
                | "start_context"
                | "unw_getcontext"
                | "Ux86_64_getcontext"
                | "ULx86_64_getcontext"
                | "jump_fcontext"
                | "ontop_fcontext"
                | "make_fcontext"
        )
        || bare.starts_with("dl_runtime_")
        || matches!(
            bare,
            "start" | "dl_start" | "dl_start_user" | "morestack" | "restore_rt"
        );
    if is_odd {
        return Some(Refusal::OddReturn);
    }
    // These find out who called them by their return address.
    let looks_back = matches!(
        bare,
        "dlopen" | "dlmopen" | "dlsym" | "dlvsym" | "mcount" | "fentry" | "uw_init_context_1"
    );
    looks_back.then_some(Refusal::LooksBack)
}

/// `struct rseq_cs` entries that the file declares (`__rseq_cs` section):
/// version, flags, start, length, abort address.
fn restartable_sequences(elf: &ElfFile<'_>) -> Vec<Range<u64>> {
    const ENTRY: usize = 32;
    let Some((_, bytes)) = elf.section("__rseq_cs") else {
        return Vec::new();
    };
    let word = |entry: &[u8], at: usize| -> u64 {
        let bytes = entry
            .get(at..at + 8)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let entries = bytes.chunks_exact(ENTRY);
    entries
        .map(|entry| word(entry, 8)..word(entry, 8).saturating_add(word(entry, 16)))
        .collect()
}
