//! What two processes share and who lives: a session is a directory with the
//! tool's objects and the data of its programs, the roster tells who takes
//! part. It knows no hook and no bpf(2) command.
//!
//! Reading order: [`dirs`] (where files lie), [`process`] (who is who),
//! [`roster`] (who takes part), `objects` and [`data`] (the two files),
//! [`owner`] (the tool's side), [`view`] (everyone else's), [`claims`] (who uses
//! its objects besides), [`sweep`] (the end), `keeper` (what outlives the tool).

pub mod claims;
pub mod data;
pub mod dirs;
mod error;
pub mod file;
mod functions;
mod keeper;
pub mod link;
mod objects;
pub mod owner;
pub mod process;
pub mod roster;
pub mod sweep;
pub mod view;

pub use claims::{Claim, Hold};
pub use data::{COUNTER_LINES, CounterLine, Counts, LinkCounters};
pub use dirs::{Dirs, LIBRARY_PREFIX};
pub use error::SessionError;
pub use link::{LinkKind, LinkSpec, Place, syscall_function};
pub use objects::ObjectKind;
pub use owner::{Left, Session, Storage};
pub use process::{ProcessId, possible_cpus};
pub use roster::{AgentSlot, Laggards, Member, Role, Roster, boot_id};
pub use sweep::{overwrite_arguments, spawn_sweeper, sweep};
pub use view::{SessionView, is_alive, list, try_list};

/// File of the object table; its lock is the session's life.
const OBJECTS: &str = "objects";
/// File of what programs write.
const DATA: &str = "data";
/// Name prefix of the files of `BPF_F_MMAPABLE` arrays.
const ARRAY_PREFIX: &str = "array-";
/// Name prefix of a session's directory while it is made.
const NEW_PREFIX: &str = ".new-";

#[cfg(all(test, feature = "model"))]
mod models;
#[cfg(test)]
mod tests;
