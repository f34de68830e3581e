//! The host of Wasm modules that carry eBPF programs: WASI preview 1 and the
//! imports of wasm-bpf, over `loader`. It does not know where programs run.
//!
//! What a guest says is taken for random bytes: pointers, handles, fds and
//! table indices are checked, and what is wrong with them is an errno, never
//! the end of the host.
//!
//! Reading order: [`run`] (a module from bytes to exit code), `cache` (compiled
//! modules), `imports` (what one gets), `abi` (our imports, in all their shapes), `guest` (what a guest owns),
//! `memory` (its memory), `objects`, `poll`, `maps` (the calls), `packages` (an
//! older interface), `arguments`, `sleep` (WASI's waits) and `streams`, [`stop`] (the end from outside).

mod abi;
mod arguments;
mod cache;
mod guest;
mod imports;
mod maps;
mod memory;
mod objects;
mod packages;
mod poll;
pub mod run;
mod sleep;
pub mod stop;
mod streams;

pub use guest::Wishes;
pub use run::{Directory, Error, Limits, Module, run};
pub use stop::{Reason, Stop};
