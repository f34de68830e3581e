//! Objects of eBPF programs: opened, loaded, attached, and what they report
//! polled. libbpf does the reading and relocating, so section names, global
//! data, CO-RE, kconfig and USDT are libbpf's. It does not know where bpf(2) is
//! answered: in a process with the syscall server in it, programs run in user
//! space, elsewhere in the kernel.
//!
//! Reading order: [`open`] (bytes to a loaded object), [`target`] (what a
//! program is put on), `attach`, `network`, `iterator`, [`buffers`] (ring buffers and perf buffers),
//! `messages` (what libbpf says), `reason` (what that means), `rights` (what a
//! process may load), [`error`].

mod attach;
pub mod buffers;
pub mod error;
pub mod globals;
mod iterator;
mod messages;
mod network;
pub mod open;
mod reason;
mod rights;
pub mod show;
pub mod target;
mod usdt;

pub use buffers::{Batch, Buffers, Record};
pub use error::Error;
pub use messages::speak;
pub use open::{Loaded, Opened, Options};
pub use reason::Cause;
pub use target::{Place, Target};
