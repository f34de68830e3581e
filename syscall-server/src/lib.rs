//! The library preloaded into tools: it answers bpf(2), perf_event_open(2)
//! and the calls on their fds, and passes everything else to the kernel
//! untouched. It knows no hook and no program's meaning; commands are
//! [`runtime::command`]'s.
//!
//! Nothing happens (no session, no thread, no output) until the process makes
//! its first bpf(2) call: wrappers such as `timeout` and `sh -c` stay what
//! they are. What they and tools execute inherits what [`children`] says.
//!
//! Reading order: `exports` (the C functions), [`server`] (what exists once
//! the process is a tool), [`fds`], [`bpf`] (one file per command family),
//! [`perf`], [`kernel`] (what only the kernel can host), `own_process` and [`targets`] (who is traced), [`mapping`], [`bridge`] and [`readiness`] (rings wake readers),
//! [`trees`], [`files`], [`tracefs`], [`trace_pipe`], [`kallsyms`] and [`headers`] (files that are not there), [`bpffs`]
//! (where pins are), [`raw`], [`user`], [`caller`]. [`supervisor`] serves what cannot be preloaded.

#[cfg(not(test))]
mod arch;
pub mod bpf;
pub mod bpffs;
pub mod bridge;
pub mod caller;
pub mod capabilities;
pub mod children;
pub mod environment;
#[cfg(not(test))]
mod exports;
pub mod fds;
pub mod files;
pub mod forks;
pub mod headers;
pub mod kallsyms;
pub mod kernel;
pub mod log;
pub mod mapping;
mod own_process;
pub mod perf;
pub mod raw;
pub mod readiness;
pub mod server;
pub mod supervisor;
pub mod targets;
pub mod trace_pipe;
pub mod tracefs;
pub mod trees;
pub mod user;
