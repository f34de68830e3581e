//! The runtime both sides share: sessions, maps, helpers and the bpf(2)
//! commands. It knows no hooks.
//!
//! Reading order: [`session`] (what two processes share and who lives),
//! [`maps`], [`helpers`], [`types`], [`program`] (verify, link, compile),
//! [`command`].

mod arch;
pub mod barrier;
pub mod clock;
pub mod command;
pub mod doorbell;
pub mod guest;
pub mod helpers;
mod id_table;
pub mod kernel;
pub mod kernel_types;
pub mod mapped;
pub mod maps;
pub mod own_stack;
pub mod program;
pub mod readable;
pub mod run;
pub mod sample;
pub mod session;
pub mod tasks;
pub mod thread;
pub mod types;
pub mod unwind;
pub mod vcpu;
