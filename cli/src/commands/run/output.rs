//! What records and maps are shown by while programs run.

use std::io::{self, BufRead, BufReader, Write};
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

    /// Shows what iterators say.
    fn lists(&mut self, loaded: &Loaded) -> Result<(), Problem>;

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

/// Writes what iterators say as it is, or with `json` a line of text each.
pub fn lists(out: &mut impl Write, loaded: &Loaded, json: bool) -> Result<(), Problem> {
    for (program, list) in loaded.lists() {
        let mut list = BufReader::new(list.map_err(super::object::problem)?);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = list.read_until(b'\n', &mut line).map_err(|error| {
                let what = format!("cannot be read ({})", reason(&error));
                Problem::new(program, what, "look into dmesg for what the kernel says")
            })?;
            if read == 0 {
                break;
            }
            let written = match json {
                false => out.write_all(&line),
                true => {
                    let text = String::from_utf8_lossy(&line);
                    let text = text.trim_end_matches('\n');
                    writeln!(out, "{}", json!({ "program": program, "text": text }))
                }
            };
            written.map_err(|error| unwritable(&error))?;
        }
    }
    out.flush().map_err(|error| unwritable(&error))
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
