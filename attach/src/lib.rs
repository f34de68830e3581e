//! Function hooks in the own process: uprobe and uretprobe at addresses. It
//! knows no eBPF program, no map and no other process.
//!
//! Reading order: [`probe`] (what is asked), [`module`] (the text it is asked
//! of), [`engine`] (who keeps the sites).

pub mod engine;
mod error;
pub mod module;
pub mod probe;

pub use engine::{Engine, HookId, SiteInfo};
pub use error::{AttachError, Refusal};
pub use module::{Module, ModuleError};
pub use probe::{Callback, Kind, Point, Probe, Tactic};
