//! The text of one loaded ELF file: original bytes, functions, padding. It
//! knows no hook.

use std::ops::Range;

use thiserror::Error;

/// Why a file cannot be understood as the origin of text in memory.
#[derive(Debug, Error)]
pub enum ModuleError {}

/// One loaded ELF file: where its text lies in this process and what the file
/// says should be there.
#[derive(Debug)]
pub struct Module {}

impl Module {
    /// Describes a module from its file's bytes, its load bias (`l_addr`) and
    /// the executable ranges of memory that are mapped from it.
    pub fn new(_file: &[u8], _bias: u64, _text: &[Range<usize>]) -> Result<Module, ModuleError> {
        Ok(Module {})
    }
}
