//! Why a probe cannot be attached.

use thiserror::Error;

/// Why one point of a batch was not hooked. The text is unchanged then.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AttachError {
    /// The address cannot take a hook safely.
    #[error("{addr:#x} cannot be probed: {reason}")]
    Refused {
        /// Address asked for.
        addr: usize,
        /// What stands against it.
        reason: Refusal,
    },
    /// The kernel denied what is needed to change text.
    #[error("cannot {what}: {error}")]
    System {
        /// What was tried, as a verb phrase.
        what: &'static str,
        /// The kernel's answer.
        error: uapi::Errno,
    },
    /// The hook back end that was asked for cannot be had.
    #[error("hook back end {name}: {reason}")]
    BackEnd {
        /// Its name as it was asked for.
        name: String,
        /// What stands against it.
        reason: &'static str,
    },
}

/// Why an address cannot take a hook safely.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
pub enum Refusal {
    /// Not inside the text the module was made from.
    #[error("not in the module's text")]
    OutsideText,
    /// Memory differs from the file: a kernel uprobe, a debugger or another tool.
    #[error("its bytes differ from the file's, someone else has patched it")]
    Patched,
    /// The bytes are no instruction that we know.
    #[error("its first bytes do not decode")]
    Undecodable,
    /// The kernel refuses it, too.
    #[error("the kernel probes no such instruction, nor do we (ENOTSUPP)")]
    NotSupported,
    /// Inside an instruction.
    #[error("no instruction of its function starts there")]
    NotInstruction,
    /// Part of the instruction is used alone, as code behind a `lock` prefix is.
    #[error("something jumps into its first instruction")]
    JumpedInto,
    /// The first instruction cannot run elsewhere.
    #[error("its first instruction cannot be moved")]
    Immovable,
    /// No jump fits.
    #[error("no jump fits in its first bytes without touching another instruction")]
    NoRoom,
    /// A jump would fit, but memory where it would land is taken.
    #[error("no free memory where a jump could land")]
    NoMemory,
    /// The change would not be atomic and the system has no `membarrier`.
    #[error("its first bytes cross a word boundary and membarrier is not available")]
    Straddles,
    /// Another hook already relies on these bytes.
    #[error("another hook relies on its bytes")]
    Overlap,
    /// Not a function symbol: a return address cannot be expected there.
    #[error("not the start of a function symbol, so its return cannot be probed or overridden")]
    NotFunction,
    /// The back end cannot do it.
    #[error("this hook back end cannot keep a function from running")]
    Override,
    /// Returns twice, on another stack or not at all.
    #[error("does not return as functions do (setjmp, vfork, clone, context switch, loader)")]
    OddReturn,
    /// It behaves by who called it.
    #[error("reads its return address to learn who called it (dlopen, dlsym)")]
    LooksBack,
    /// The runtime moves stacks and checks return addresses.
    #[error("Go code: its runtime checks return addresses")]
    Go,
    /// It would run in the middle of a probe.
    #[error("part of the library that runs the probes")]
    Own,
    /// Kernel restarts code here by address.
    #[error("inside a restartable sequence")]
    Rseq,
    /// Unwinders know these bytes.
    #[error("signal return code, which unwinders know by its bytes")]
    SignalReturn,
    /// The frida back end does not take it.
    #[error("frida-gum: {0}")]
    Frida(&'static str),
}

impl Refusal {
    /// Whether a breakpoint would do.
    pub fn is_for_want_of_jump(self) -> bool {
        self.is_for_want_of_room() || self == Refusal::JumpedInto
    }

    /// Whether a neighbour may help: the instruction could be displaced.
    pub(crate) fn is_for_want_of_room(self) -> bool {
        matches!(
            self,
            Refusal::NoRoom | Refusal::NoMemory | Refusal::Straddles | Refusal::Overlap
        )
    }
}
