//! The host of Wasm modules that carry eBPF programs: WASI preview 1 and the
//! imports of wasm-bpf, over `loader`. It does not know where programs run.
//!
//! What a guest says is taken for random bytes: pointers, handles, fds and
//! table indices are checked, and what is wrong with them is an errno, never
//! the end of the host.
//!
//! Reading order: [`run`] (a module from bytes to exit code), `abi` (which
//! imports there are, and in which shapes), `guest` (what a guest owns),
//! `memory` (its memory), `objects`, `poll`, `maps` (the calls).

mod abi;
mod guest;
mod maps;
mod memory;
mod objects;
mod poll;
pub mod run;

pub use run::{Error, Limits, Module, run};
