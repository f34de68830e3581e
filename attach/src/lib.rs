//! Function hooks in the own process: uprobe and uretprobe at addresses. It
//! knows no eBPF program, no map and no other process.
//!
//! A probe's first bytes become a jump to a trampoline near by, which saves
//! the registers, runs the probes, runs the instruction that the jump replaced
//! and goes on behind it. No breakpoint is in the text and no signal handler is
//! installed, unless the user asks for it ([`breakpoints`]); no thread is
//! stopped and no fd is kept.
//!
//! Reading order: [`probe`] (what is asked), [`module`] (the text it is asked
//! of), [`backend`] (who hooks), [`engine`] (who keeps the sites of ours); then what happens when one is made:
//! `arch::plan`, `arena`, `text`; and when one is hit: `arch::entry`, `hit`,
//! `guard`, `shadow`, `arch::stub`.

mod arch;
mod arena;
pub mod backend;
pub mod breakpoints;
mod counter;
pub mod engine;
mod error;
#[cfg(feature = "frida")]
mod frida;
mod guard;
mod hit;
mod leaving;
mod libraries;
mod lock;
mod mappings;
pub mod module;
pub mod probe;
mod session;
mod shadow;
mod site;
pub mod syscalls;
mod text;

pub use arch::inline::{Around, Inline};
pub use arch::quiet::is_quiet;
pub use arch::vectors::bpftime_attach_saving_vectors;
pub use backend::{Backend, HookId, Refusing, SiteInfo, open};
pub use counter::{Counter, Hits};
pub use engine::Engine;
pub use error::{AttachError, Refusal};
pub use module::{Module, ModuleError};
pub use probe::{Callback, Hit, Kind, Needs, Point, Probe, Tactic};
pub use shadow::true_return_address;
pub use syscalls::{SyscallCallback, SyscallEvent, SyscallProbe, SyscallSite, When};
