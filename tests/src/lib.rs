//! What the end-to-end tests stand on: an unprivileged user with a home and a
//! session directory of its own, programs on pipes and terminals, waiting with
//! a deadline, and the same story told under the kernel. It knows the
//! `bpftime` command from outside only and links none of its crates.
//!
//! Reading order: [`stage`] (files that any user can read), [`world`] (one
//! test's surroundings), [`program`] (a running process), [`counted`] and [`hot`]
//! (two fixtures from the outside), [`http`], [`registry`], [`web`], [`wat`] (Wasm modules as
//! text), [`wait`].

pub mod counted;
pub mod hot;
pub mod http;
pub mod program;
pub mod registry;
pub mod stage;
pub mod wait;
pub mod wat;
pub mod web;
pub mod world;

pub use counted::Counted;
pub use hot::Hot;
pub use program::{Exit, Program};
pub use registry::Registry;
pub use stage::Stage;
pub use web::Web;
pub use world::{Mode, World};
