//! Text whose system calls are asked for: where it is mapped, and what was
//! found out about it before. It knows no site.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::memo::Memo;
use crate::module::Module;

/// Text of one file, or of memory.
#[derive(Debug)]
pub struct Text {
    /// Addresses, and where in the file they begin.
    pub(crate) mapped: Vec<(Range<u64>, u64)>,
    pub(crate) memo: Option<Memo>,
    module: OnceLock<Arc<Module>>,
}

impl Text {
    /// Of a file that was looked at before, or was not. Without a memo, or
    /// where that does not do, [`Text::set_module`] has to follow.
    pub fn of_file(mapped: &[(Range<usize>, u64)], memo: Option<Memo>) -> Text {
        let mapped = mapped
            .iter()
            .map(|(range, offset)| (range.start as u64..range.end as u64, *offset));
        Text {
            mapped: mapped.collect(),
            memo,
            module: OnceLock::new(),
        }
    }

    /// Of a module that is at hand.
    pub fn of_module(module: Arc<Module>) -> Text {
        Text {
            mapped: Vec::new(),
            memo: None,
            module: OnceLock::from(module),
        }
    }

    /// The module that it is, made since; the first one stays.
    pub fn set_module(&self, module: Arc<Module>) {
        let _is_first = self.module.set(module);
    }

    pub(crate) fn module(&self) -> Option<&Arc<Module>> {
        self.module.get()
    }

    /// Whether it has no file.
    pub(crate) fn is_memory(&self) -> bool {
        self.module().is_some_and(|module| module.is_memory())
    }

    /// Whether text of it begins in a range.
    pub(crate) fn begins_in(&self, range: &Range<u64>) -> bool {
        let mut mapped = self.mapped.iter().map(|(mapped, _)| mapped.start);
        let pieces = self.module().into_iter().flat_map(|module| module.pieces());
        let mut pieces = pieces.map(|(start, _)| start);
        mapped.any(|start| range.contains(&start)) || pieces.any(|start| range.contains(&start))
    }

    /// Where `len` bytes of the file are mapped.
    pub(crate) fn addr_of(&self, offset: u64, len: u64) -> Option<u64> {
        self.mapped.iter().find_map(|(range, start)| {
            let inside = offset.checked_sub(*start)?;
            let addr = range.start.checked_add(inside)?;
            (addr.checked_add(len)? <= range.end).then_some(addr)
        })
    }

    /// Where in the file an address is.
    pub(crate) fn offset_of(&self, addr: u64) -> Option<u64> {
        self.mapped
            .iter()
            .find_map(|(range, start)| range.contains(&addr).then(|| start + (addr - range.start)))
    }

    /// The mapping that an address is in.
    pub(crate) fn around(&self, addr: u64) -> Option<&Range<u64>> {
        let mut mapped = self.mapped.iter().map(|(range, _)| range);
        mapped.find(|range| range.contains(&addr))
    }
}
