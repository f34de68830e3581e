//! The verifier's log. Tools parse it, so lines follow the kernel's.

/// What `BPF_PROG_LOAD` writes to `log_buf`.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// `log_level` of `BPF_PROG_LOAD`: 1 and above print each instruction.
    pub level: u32,
    /// The text so far.
    pub text: String,
}

impl Log {
    /// Adds one line.
    pub(super) fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }
}
