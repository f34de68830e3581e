//! One suite for all map types: what the kernel does with the same calls, and
//! what is left when processes are killed.

mod differential;
mod hostile;
mod kernel;
mod kill;
mod killed;
mod locks;
mod lpm;
mod lru;
mod of_maps;
mod perf_ring;
mod process;
mod queue;
mod reclaim;
mod reused;
mod ringbuf;
mod segment;
mod stack_trace;
mod states;
mod step;
mod task_storage;
mod user_ringbuf;
mod walks;
mod zombies;
