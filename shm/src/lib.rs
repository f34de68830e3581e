//! Every byte that two processes share: segments (sparse 0600 files on
//! tmpfs), checked regions of them, futex words. It knows no eBPF.
//!
//! Contract (fixed; extend, do not change without telling the others):
//! - [`Segment::create`]/[`Segment::open`]: a sparse file, mapped whole, at a
//!   stable address until the last [`Region`] of it is dropped. Access is
//!   `ReadWrite` or `ReadOnly`; creation is 0600, `O_EXCL`, `O_NOFOLLOW`,
//!   `O_CLOEXEC`, `MADV_DONTDUMP`, and the fd is not kept unless asked for.
//! - [`Region`]: a checked range of a segment, `Clone + Send + Sync`. Hands out
//!   atomics and copies, never references to plain bytes.
//! - [`futex`]: wait/wake on shared words by raw system calls.
//! - [`sys`]: raw system calls (never through libc functions that a preloaded
//!   library intercepts), usable from trampolines.
