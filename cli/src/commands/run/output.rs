//! What records and maps are shown by while programs run.

use std::io::{self, Write};
use std::time::Instant;

use chrono::Local;
use loader::{Loaded, Record};
use serde_json::json;

use super::stop;
use crate::libraries::reason;
use crate::problem::Problem;

/// Why maps are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// It is time.
    Due,
    /// Nothing comes any more.
    End,
}

/// Shows what programs report, on stdout.
pub trait Output {
    /// Programs are in place.
    fn begin(&mut self) -> Result<(), Problem>;

    /// A program reported something.
    fn record(&mut self, record: Record<'_>) -> Result<(), Problem>;

    /// What is printed so far shall be seen.
    fn flush(&mut self) -> Result<(), Problem>;

    /// When maps are to be shown next, if not at the end only.
    fn due(&self) -> Option<Instant>;

    /// Shows maps.
    fn maps(&mut self, loaded: &Loaded, occasion: Occasion) -> Result<(), Problem>;
}

/// Says on stderr that programs are in place; scripts wait for it.
pub fn attached() {
    // Nobody listens if stderr is gone.
    let _ = writeln!(io::stderr(), "bpftime: attached; Ctrl-C ends");
}

/// Says that records did not fit: on stderr, or as one more object among those
/// that are printed.
pub fn lost(out: &mut impl Write, json: bool, map: &str, count: u64) -> io::Result<()> {
    if json {
        return writeln!(out, "{}", json!({ "lost": count, "map": map }));
    }
    // Nobody listens if stderr is gone.
    let _ = writeln!(
        io::stderr(),
        "bpftime: {map}: {count} records were lost, for the buffer was full"
    );
    Ok(())
}

/// The time of day, as lines begin with.
pub fn now() -> String {
    Local::now().format("%H:%M:%S").to_string()
}

/// Stdout is gone.
pub fn unwritable(error: &io::Error) -> Problem {
    if error.kind() == io::ErrorKind::BrokenPipe {
        stop::by_broken_pipe();
    }
    Problem::new(
        "stdout",
        format_args!("cannot be written ({})", reason(error)),
        "check where the output goes",
    )
}
