//! Maps in memory that tool and targets share. They know no session and no
//! program: a map is a spec and a region.
//!
//! Reading order: [`MapSpec`], [`Map`], then `kind` (what a map type is, and
//! the one list of them), then a file for each type. What programs call
//! (`lookup_ptr`, `update_prog`, `delete_prog` and all below them) runs inside
//! targets' functions: no allocation, no blocking lock, no libc call, no panic.
//! Nothing in storage is believed: offsets and indexes are checked at each use.

mod array;
mod bloom_filter;
pub(crate) mod bytes;
mod hash;
mod hasher;
pub mod kernel;
mod kernels_only;
mod kind;
mod lpm_trie;
mod map;
mod of_maps;
pub(crate) mod parts;
mod percpu_array;
mod perf_ring;
mod queue;
mod ringbuf;
mod slots;
mod spec;
mod spec_only;
mod stack_trace;
mod task_storage;
mod user_ringbuf;

pub(crate) use hash::DIRECT_CALLS;
pub use hash::direct::helper_at;
pub use kernel::KernelObjects;
pub use kernels_only::kernels_only;
pub use map::Map;
pub use perf_ring::PerfRing;
pub use ringbuf::Ring;
pub use spec::{FieldSpec, InnerSpec, MAX_FIELDS, MapSpec};
pub use task_storage::TaskStorage;
pub use user_ringbuf::{Drained, UserRing};
