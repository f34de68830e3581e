//! ELF files: what kind of executable, symbols, functions and their bounds,
//! file offset to address; and BTF, the types of BPF programs. Bytes in,
//! facts out; it knows no IO and no process.
//!
//! Reading order: [`elf`], [`functions`], [`frames`],
//! [`unwind`]; [`uprobe`]; [`btf`].

pub mod btf;
pub mod elf;
mod error;
mod frames;
pub mod functions;
pub mod unwind;
pub mod uprobe;

pub use elf::{Class, ElfFile, FileKind, Machine, Segment, Symbol, SymbolKind};
pub use error::ObjectError;
pub use functions::{Function, Functions, Origin};
