//! `syscall` instructions: finding them, the trampolines that take their
//! place, and the static code that all of these run through.

pub(crate) mod body;
pub(crate) mod find;
pub(crate) mod light;
pub(crate) mod pool;
pub(crate) mod replay;
pub(crate) mod thunk;
