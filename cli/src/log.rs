//! Says more on stderr when `BPFTIME_LOG=debug` asks for it. It knows no
//! levels: a user either wants to see what happens or does not.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;

static ON: OnceLock<bool> = OnceLock::new();

/// Writes one line if the user asked for it.
pub fn write(line: fmt::Arguments<'_>) {
    let on = ON.get_or_init(|| {
        std::env::var("BPFTIME_LOG").is_ok_and(|level| matches!(level.as_str(), "debug" | "trace"))
    });
    if *on {
        // A closed stderr is no reason to fail.
        let _ = writeln!(std::io::stderr(), "bpftime: debug: {line}");
    }
}

/// `debug!("pid {pid}")` writes one line under `BPFTIME_LOG=debug`.
macro_rules! debug {
    ($($arg:tt)*) => { $crate::log::write(format_args!($($arg)*)) };
}
pub(crate) use debug;
