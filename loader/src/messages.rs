//! What libbpf says while it works. It gives its messages to one function of
//! the process, without saying for which object.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use libbpf_rs::PrintLevel;

/// Most messages that are kept; a program's log comes as one.
const MAX_MESSAGES: usize = 64;

static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static SPEAKS: AtomicBool = AtomicBool::new(false);

/// From now on, what libbpf says is written to stderr as it comes, too: its
/// warnings and what it is about.
pub fn speak() {
    SPEAKS.store(true, Ordering::Relaxed);
}

/// Keeps warnings for [`take`]; nothing is printed unless [`speak`] asks for it.
pub(crate) fn keep() {
    let least = match SPEAKS.load(Ordering::Relaxed) {
        true => PrintLevel::Info,
        false => PrintLevel::Warn,
    };
    libbpf_rs::set_print(Some((least, |level, text| {
        let text = text.trim_end().trim_start_matches("libbpf: ");
        if SPEAKS.load(Ordering::Relaxed) {
            // Nobody is left to tell if stderr is gone.
            let _ = writeln!(io::stderr(), "libbpf: {text}");
        }
        let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
        if level == PrintLevel::Warn && warnings.len() < MAX_MESSAGES {
            warnings.push(text.to_owned());
        }
    })));
}

/// The warnings since the last call.
pub(crate) fn take() -> Vec<String> {
    let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *warnings)
}
