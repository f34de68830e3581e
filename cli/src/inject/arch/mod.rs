//! What injection needs to know about the processor: registers, the calling
//! convention, the system call instruction.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;
