//! What threads of several processes do with the structures of shared memory, in
//! every interleaving, with every value that a load may see, and with one of
//! them killed at each step: `cargo test -p bpftime-runtime --features model`.
//!
//! It is the production code that runs (`shm::sync::model`). Each model is also
//! run with every operation made too weak or left out, one at a time, to see
//! that it notices; what it does not notice is listed and explained.

mod doorbell;
mod hash;
mod lock;
mod memory;
mod ring;
mod vcpu;
