//! System call hooks in the own process: every `syscall` instruction in its
//! text. It knows no eBPF program and no other process.
//!
//! The instruction, or one that leads straight to it, becomes a jump to a
//! trampoline; the system call itself is made by a stub of this library, so
//! that nothing of ours is on the stack meanwhile: a child that comes back from
//! it on another stack is nothing special. Where the number is a constant, only
//! the instructions of traced numbers change, and all others run as they were.
//!
//! Reading order: this file (what is asked), [`text`] (of what text), [`sites`]
//! (who keeps the instructions), [`planning`] and [`memo`] (how one is hooked),
//! `arch::syscalls` (finding them, trampolines, stubs), [`hit`] (what happens at
//! one).

pub mod dispatch;
pub(crate) mod hit;
pub(crate) mod light;
pub(crate) mod memo;
mod planning;
pub(crate) mod sites;
pub(crate) mod text;

pub use light::{LightCallback, LightFunction};
pub use memo::Memo;
pub use text::Text;

use core::fmt;
use core::sync::atomic::AtomicU64;

use uapi::PtRegs;

use crate::counter::Hits;

/// Whether bytes that are about to be text may hold a `syscall` instruction
/// that can be hooked there: see [`crate::Module::of_memory`].
pub fn may_hold(code: &[u8]) -> bool {
    crate::arch::syscalls::find::may_hold(code)
}

/// Whether bytes hold any that might be a system call instruction, also where
/// it would not be hooked.
pub fn may_hold_any(code: &[u8]) -> bool {
    crate::arch::syscalls::find::may_hold_any(code)
}

/// On which side of a system call a probe runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum When {
    /// Before it.
    Enter,
    /// When it has returned, also in a child that it made.
    Exit,
}

/// What a probe is told.
#[repr(C)]
#[derive(Debug)]
pub struct SyscallEvent {
    /// The registers as the kernel has them in a system call: `orig_ax` is the
    /// number; at exit `ax` is the result, before it -ENOSYS. To be read only,
    /// but an observer may replace an argument, and puts it back at exit.
    pub regs: *mut PtRegs,
    /// The number; -1 behind rt_sigreturn(2), as in the kernel.
    pub nr: i64,
    /// At enter: whether the call is not to be made ...
    pub is_answered: bool,
    /// ... and what it then returns.
    pub answer: i64,
    /// The thread is the agent's own, or works for it: only observers see that.
    pub is_own: bool,
}

impl SyscallEvent {
    pub(crate) fn new(regs: &mut PtRegs, nr: i64) -> SyscallEvent {
        SyscallEvent {
            regs,
            nr,
            is_answered: false,
            answer: 0,
            is_own: false,
        }
    }
}

/// What a hook calls, on the thread that makes the system call. The conditions
/// are those of [`crate::Callback`].
pub type SyscallCallback = unsafe extern "C" fn(event: *mut SyscallEvent, data: *const ());

/// A callback on one side of one or all system calls. All that it points to
/// stays valid for ever.
#[derive(Clone, Copy)]
pub struct SyscallProbe {
    /// Before or behind.
    pub when: When,
    /// Which; `None` for all.
    pub nr: Option<u32>,
    /// Called at each hit.
    pub callback: SyscallCallback,
    /// Passed to `callback` as it is.
    pub data: *const (),
    /// Counts the calls of `callback`.
    pub hits: Hits,
    /// Counts hits that were skipped inside another probe of the same thread.
    /// May be null.
    pub missed: *const AtomicU64,
    /// It sees every call, also those that a probe's own thread makes inside
    /// another probe, and those of the agent's thread. It may
    /// be interrupted by a signal whose handler brings it in again.
    pub observes: bool,
    /// What can be called in its place, where it is the only one and runs.
    pub light: Option<LightCallback>,
}

// SAFETY: that its pointers may be used on any thread is the contract.
unsafe impl Send for SyscallProbe {}
// SAFETY: as above.
unsafe impl Sync for SyscallProbe {}

impl PartialEq for SyscallProbe {
    fn eq(&self, other: &SyscallProbe) -> bool {
        (self.when, self.nr, self.data, self.observes, self.light)
            == (
                other.when,
                other.nr,
                other.data,
                other.observes,
                other.light,
            )
            && core::ptr::fn_addr_eq(self.callback, other.callback)
    }
}

impl fmt::Debug for SyscallProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyscallProbe")
            .field("when", &self.when)
            .field("nr", &self.nr)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

/// One `syscall` instruction that takes part, for people and tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyscallSite {
    /// Its address.
    pub addr: usize,
    /// The number in eax, where it is a constant.
    pub nr: Option<u32>,
    /// How the jump fits, or why none does.
    pub tactic: Result<crate::Tactic, crate::Refusal>,
    /// Whether the jump is there now.
    pub is_patched: bool,
}
