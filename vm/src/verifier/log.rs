//! The verifier's log. Tools parse it, so lines follow the kernel's.

use uapi::Insn;

use super::Fail;
use super::walk::Counts;

/// What `BPF_PROG_LOAD` writes to `log_buf`.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `log_level` of `BPF_PROG_LOAD`; 4 prints statistics only.
    pub level: u32,
    /// The text so far.
    pub text: String,
}

/// `BPF_LOG_LEVEL1 | BPF_LOG_LEVEL2`: bits that ask for more than statistics.
const LEVELS: u32 = 1 | 2;

impl Log {
    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }
}

/// Writes to a log, if there is one.
pub(super) struct Report<'a> {
    pub(super) log: Option<&'a mut Log>,
}

impl Report<'_> {
    /// The instruction that failed, why, and what would make it pass.
    pub(super) fn failure(&mut self, insns: &[Insn], at: usize, fail: &Fail) {
        let Some(log) = self.log.as_deref_mut().filter(|l| l.level & LEVELS != 0) else {
            return;
        };
        if let Some(insn) = insns.get(at) {
            log.line(&format!(
                "{at}: ({:02x}) r{} r{} {:+} {:#x}",
                insn.code,
                insn.dst(),
                insn.src(),
                insn.off,
                insn.imm
            ));
        }
        log.line(&fail.text);
        if let Some(hint) = fail.hint {
            log.line(&format!("hint: {hint}"));
        }
    }

    /// The last line.
    pub(super) fn counts(&mut self, counts: &Counts) {
        let Some(log) = self.log.as_deref_mut().filter(|l| l.level != 0) else {
            return;
        };
        log.line(&format!(
            "processed {} insns (limit {}) max_states_per_insn {} total_states {} peak_states {} mark_read 0",
            counts.insns,
            uapi::insn::BPF_COMPLEXITY_LIMIT_INSNS,
            counts.max_states_per_insn,
            counts.total_states,
            counts.peak_states
        ));
    }
}
