//! Every byte that two processes share: segments (sparse 0600 files), checked
//! regions of them, words to wait on. It knows no eBPF.
//!
//! What another process can write is data, never truth: a [`Region`] checks
//! every offset at each use and hands out atomics and copies, never references
//! to plain bytes.
//!
//! Reading order: [`segment`], [`region`], [`sync`], [`futex`], [`sys`].

mod arch;
pub mod futex;
pub mod region;
pub mod segment;
pub mod sync;
pub mod sys;

pub use region::{DoubleMapping, Region};
pub use segment::{Access, Segment};

/// Granularity of mappings.
pub const PAGE: u64 = 4096;
