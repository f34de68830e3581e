//! Why bytes are not an ELF file that we can use.

use thiserror::Error;

/// Why a file's bytes were not understood.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// The first bytes are not `\x7fELF`.
    #[error("not an ELF file")]
    NotElf,
    /// Headers or tables contradict themselves or the file's length.
    #[error("damaged ELF file: {0}")]
    Damaged(#[from] goblin::error::Error),
}
