//! What libbpf says while it works. It gives its messages to one function of
//! the process, without saying for which object.

use std::sync::{Mutex, PoisonError};

use libbpf_rs::PrintLevel;

/// Most messages that are kept; a program's log comes as one.
const MAX_MESSAGES: usize = 64;

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps warnings for [`take`] instead of printing them on stderr.
pub(crate) fn keep() {
    libbpf_rs::set_print(Some((PrintLevel::Warn, |_, text| {
        let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_MESSAGES {
            warnings.push(text.trim_end().trim_start_matches("libbpf: ").to_owned());
        }
    })));
}

/// The warnings since the last call.
pub(crate) fn take() -> Vec<String> {
    let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *warnings)
}
