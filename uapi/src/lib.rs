//! The eBPF user API as plain data: instructions, numbers, attributes.
//! It knows no process, no memory and no behaviour.
//!
//! Numbers keep their kernel spelling; sources are `include/uapi/linux/*.h`
//! of Linux 6.18 unless a module says otherwise.

pub mod attr;
pub mod btf;
pub mod cmd;
pub mod errno;
pub mod helper;
pub mod insn;
pub mod map;
pub mod perf;
pub mod prog;
pub mod pt_regs;

pub use errno::Errno;
pub use insn::Insn;
pub use pt_regs::PtRegs;
