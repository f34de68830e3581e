//! Where functions start and end. It knows no instruction.

use std::ops::Range;

use crate::elf::{ElfFile, SymbolKind};
use crate::frames;

/// How a function start is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A function symbol: callers call it, a return address is on the stack.
    Symbol,
    /// An unwind table entry only: may be the middle of a function (`.cold`).
    Frame,
}

/// One function, link-time addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// First byte and one past the last.
    pub range: Range<u64>,
    /// How its start is known.
    pub origin: Origin,
}

/// All functions of a file by start address.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Functions {
    sorted: Vec<Function>,
}

impl Functions {
    /// Symbols first; unwind entries fill in sizes and what has no symbol.
    /// Linker-made call stubs (`.plt*`) are no functions.
    pub(crate) fn of(file: &ElfFile<'_>) -> Functions {
        let sections: Vec<_> = file.code_sections().collect();
        let home = |address: u64| sections.iter().find(|(_, range)| range.contains(&address));
        let is_code = |address: u64| match home(address) {
            Some((name, _)) => !name.starts_with(".plt"),
            None => sections.is_empty(),
        };
        let mut found: Vec<Function> = Vec::new();
        for symbol in file.symbols() {
            let is_function = matches!(symbol.kind, SymbolKind::Function | SymbolKind::Ifunc);
            if is_function && symbol.address != 0 && is_code(symbol.address) {
                found.push(Function {
                    range: symbol.address..symbol.address.saturating_add(symbol.size),
                    origin: if is_split_part(symbol.name) {
                        Origin::Frame
                    } else {
                        Origin::Symbol
                    },
                });
            }
        }
        for range in frames::ranges(file) {
            if is_code(range.start) {
                found.push(Function {
                    range,
                    origin: Origin::Frame,
                });
            }
        }
        // Of several claims on one start the symbol's wins, then the longest.
        found.sort_by_key(|f| {
            (
                f.range.start,
                f.origin == Origin::Frame,
                u64::MAX - f.range.end,
            )
        });
        let mut sorted: Vec<Function> = Vec::with_capacity(found.len());
        for function in found {
            match sorted.last_mut() {
                Some(last) if last.range.start == function.range.start => {
                    if last.range.is_empty() {
                        last.range.end = function.range.end;
                    }
                }
                _ => sorted.push(function),
            }
        }
        // A function without a size ends where the next thing starts.
        for i in 0..sorted.len() {
            if sorted[i].range.is_empty() {
                let start = sorted[i].range.start;
                let section_end = home(start).map_or(u64::MAX, |(_, range)| range.end);
                let next = sorted
                    .get(i + 1)
                    .map_or(section_end, |next| next.range.start);
                sorted[i].range.end = next.min(section_end);
            }
        }
        Functions { sorted }
    }

    /// The function that starts exactly at `address`.
    pub fn at(&self, address: u64) -> Option<&Function> {
        let i = self
            .sorted
            .binary_search_by_key(&address, |f| f.range.start)
            .ok()?;
        self.sorted.get(i)
    }

    /// The last function that starts at or before `address`.
    pub fn before(&self, address: u64) -> Option<&Function> {
        let i = self.sorted.partition_point(|f| f.range.start <= address);
        self.sorted.get(i.checked_sub(1)?)
    }

    /// Functions whose start lies in `range`, ascending.
    pub fn starting_in(&self, range: Range<u64>) -> &[Function] {
        let from = self.sorted.partition_point(|f| f.range.start < range.start);
        let to = self.sorted.partition_point(|f| f.range.start < range.end);
        self.sorted.get(from..to).unwrap_or(&[])
    }

    /// All functions, ascending by start.
    pub fn iter(&self) -> impl Iterator<Item = &Function> {
        self.sorted.iter()
    }
}

/// Compilers name the out-of-line rest of a function `f.cold`, `f.cold.3`.
fn is_split_part(name: &str) -> bool {
    name.ends_with(".cold") || name.contains(".cold.")
}
