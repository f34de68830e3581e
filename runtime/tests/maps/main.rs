//! One suite for all map types: what the kernel does with the same calls, and
//! what is left when processes are killed.

mod kernel;
mod kill;
mod oracle;
mod perf_ring;
mod process;
mod ringbuf;
mod segment;
mod stack_trace;
