//! The eBPF machine: instruction set, assembler, disassembler, verifier,
//! interpreter and JIT. It knows no map store and no process: maps and
//! helpers reach it through [`verifier::Env`] and [`link::Linker`].
//!
//! Reading order: [`op`], [`program`], [`helper`], [`verifier`], [`link`],
//! [`interp`], [`jit`]; [`asm`], [`disasm`] and [`listing`] serve people and tests.

pub mod asm;
pub mod disasm;
pub mod helper;
pub mod interp;
pub mod jit;
pub mod link;
pub mod listing;
pub mod op;
pub mod program;
pub mod verifier;

pub use link::{Linker, Run};
pub use program::{Facts, ProgramSpec, VerifiedProgram};
