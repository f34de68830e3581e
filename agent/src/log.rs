//! The debug log: a file in the state directory, only when `BPFTIME_LOG=debug`
//! asks for it. Nothing is ever written to the target's own output.

use std::fmt::Write;
use std::path::Path;
use std::sync::OnceLock;

use runtime::session::file;

static FILE: OnceLock<Option<Box<Path>>> = OnceLock::new();

/// Decides once whether there is a log, and where.
pub fn open(state: &Path) {
    FILE.get_or_init(|| {
        let wanted = std::env::var_os("BPFTIME_LOG").is_some_and(|v| v == "debug" || v == "trace");
        wanted.then(|| state.into())
    });
}

/// Writes one line; use [`debug!`].
pub fn line(arguments: std::fmt::Arguments<'_>) {
    let Some(Some(state)) = FILE.get() else {
        return;
    };
    let pid = std::process::id();
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{arguments}");
    // A log that cannot be written is no reason to disturb the target.
    let _ = file::append(&state.join(format!("log-{pid}")), text.as_bytes());
}

macro_rules! debug {
    ($($arguments:tt)*) => { $crate::log::line(format_args!($($arguments)*)) };
}
pub(crate) use debug;
