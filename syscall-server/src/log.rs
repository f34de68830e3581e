//! Says more on the tool's stderr when `BPFTIME_LOG=debug` asks for it, and
//! one line when nothing can work. It knows no levels.

use std::fmt;
use std::sync::OnceLock;

use crate::{raw, supervisor};

static ON: OnceLock<bool> = OnceLock::new();

/// Whether the user asked for more.
pub fn is_on() -> bool {
    *ON.get_or_init(|| {
        std::env::var("BPFTIME_LOG").is_ok_and(|level| matches!(level.as_str(), "debug" | "trace"))
    })
}

/// Writes one line if the user asked for it.
pub fn debug(line: fmt::Arguments<'_>) {
    if is_on() {
        write(format_args!("bpftime: debug: {line}\n"));
    }
}

/// Writes one line that the user needs: what happened and what to do.
pub fn problem(line: fmt::Arguments<'_>) {
    write(format_args!("bpftime: {line}\n"));
}

/// Writes what a command of ours has said: whole lines, or nothing.
pub fn said(lines: &str) {
    if !lines.is_empty() {
        write(format_args!("{lines}"));
    }
}

fn write(line: fmt::Arguments<'_>) {
    let line = line.to_string();
    if supervisor::is_supervisor() {
        supervisor::tell(&line);
        return;
    }
    // One call, so that lines of threads do not mix; a closed stderr is no
    // reason to fail.
    raw::call(
        libc::SYS_write,
        [2, line.as_ptr() as usize, line.len(), 0, 0, 0],
    );
}
