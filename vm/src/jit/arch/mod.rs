//! The compiler for the processor this was built for. Knows which folders
//! there are and nothing else.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{ExecutableMemory, Features, compile};
