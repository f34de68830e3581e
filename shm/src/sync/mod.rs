//! The words and fences of shared memory: core's, or, with the feature `model`,
//! words of the same layout that a test can hand to loom. It knows no structure.
//!
//! Code that may run under a model takes its atomics from here and nothing
//! else: `use shm::sync::{AtomicU64, Ordering, fence}`.

#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "model")]
mod word;

#[cfg(not(feature = "model"))]
pub use core::hint::spin_loop;
pub use core::sync::atomic::{AtomicBool, AtomicU8, Ordering, compiler_fence};
#[cfg(not(feature = "model"))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, fence};
#[cfg(feature = "model")]
pub use model::{fence, spin_loop};
#[cfg(feature = "model")]
pub use word::{AtomicU32, AtomicU64};

/// How often to look before something else is tried: `wanted`, or twice under a
/// model, where more looks only are more states.
pub const fn looks(wanted: u32) -> u32 {
    if cfg!(feature = "model") { 2 } else { wanted }
}
