//! Processor-specific code; nothing outside knows which processor it is.

#[cfg(target_arch = "x86_64")]
#[path = "x86_64/mod.rs"]
mod processor;

pub(crate) use processor::*;
