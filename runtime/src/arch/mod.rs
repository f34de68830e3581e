//! What differs between processors: thread-local words at a fixed offset,
//! the current CPU without a system call.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    WORDS, aside, cpu, has_rdpid, init, load, readable, replace_pair, stack_pointer,
    thread_pointer, thread_words,
};
