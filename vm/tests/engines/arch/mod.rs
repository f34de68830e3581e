//! What must know the processor.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{Registers, call_loaded, clobber, has_full_vectors};
