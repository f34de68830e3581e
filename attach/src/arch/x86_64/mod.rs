//! x86-64: raw system calls, the per-thread block, instruction decoding and
//! relocation, trampolines and the return stub.

pub(crate) mod block;
pub(crate) mod decode;
pub(crate) mod direct;
pub(crate) mod emit;
pub(crate) mod entry;
#[cfg(test)]
mod executed;
pub(crate) mod flow;
pub(crate) mod inline;
mod lean;
mod memory;
pub(crate) mod plan;
#[cfg(feature = "frida")]
pub(crate) mod prologue;
mod pun;
pub(crate) mod quiet;
pub(crate) mod stub;
pub(crate) mod sys;
pub(crate) mod syscalls;
pub(crate) mod thread;
pub(crate) mod trap;
pub(crate) mod vectors;
pub(crate) mod words;
