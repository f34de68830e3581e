//! The verdicts for people.

use std::fmt::Write;

use super::super::status::text::table;
use super::Row;
use super::verdict::{Outcome, Verdict};

/// A table of all programs, then what is to be said of single ones, with the
/// `last` lines of their logs or all.
pub fn render(rows: &[Row], last: Option<usize>) -> String {
    let against = rows.iter().any(|row| row.kernel.is_some());
    let mut heads = vec!["PROGRAM", "SECTION", "TYPE", "INSNS"];
    if against {
        heads.extend(["BPFTIME", "KERNEL"]);
    } else {
        heads.push("VERDICT");
    }
    heads.extend(["PROCESSED", "TIME"]);
    let mut text = String::new();
    table(
        &mut text,
        &heads,
        rows.iter().map(|row| cells(row, against)),
    );
    for row in rows {
        explain(&mut text, row, last);
    }
    // Names and source lines come from the object, and may hold any byte.
    let harmless = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => '?',
        c => c,
    };
    text.chars().map(harmless).collect()
}

fn cells(row: &Row, against: bool) -> Vec<String> {
    let program = &row.program;
    let mut cells = vec![
        program.name.clone(),
        program.section.clone(),
        program.type_name.clone(),
        program.insns.to_string(),
        word(&row.bpftime).to_owned(),
    ];
    if against {
        cells.push(row.kernel.as_ref().map_or("-", word).to_owned());
    }
    let number = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    cells.push(number(row.bpftime.processed.map(|n| n.to_string())));
    cells.push(number(row.bpftime.usec.map(duration)));
    cells
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict.outcome {
        Outcome::Accepted => "accepted",
        Outcome::Refused => "refused",
        Outcome::Unloadable => "not loaded",
        Outcome::Timeout => "no verdict",
        Outcome::Crashed => "crashed",
    }
}

/// `0.12 ms`, `1.5 s`.
fn duration(usec: u64) -> String {
    let ms = usec as f64 / 1000.0;
    match usec {
        0..100_000 => format!("{ms:.2} ms"),
        100_000..1_000_000 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

fn explain(text: &mut String, row: &Row, last: Option<usize>) {
    let (name, ours) = (&row.program.name, &row.bpftime);
    if ours.outcome != Outcome::Accepted {
        said(text, name, "", ours);
    }
    if ours.outcome == Outcome::Accepted && !ours.log.is_empty() {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "\n{name}: accepted");
    }
    indented(text, &ours.log, last);
    let Some(kernel) = &row.kernel else { return };
    match (ours.outcome == Outcome::Accepted, kernel.outcome) {
        (true, Outcome::Accepted) => {}
        (false, Outcome::Accepted) => {
            let _ = writeln!(text, "{name}: the kernel accepts it");
        }
        (accepted, _) => {
            said(text, name, "by the kernel ", kernel);
            if accepted {
                indented(text, &kernel.log, last);
            }
        }
    }
}

fn indented(text: &mut String, log: &str, last: Option<usize>) {
    let before = last.map_or(0, |last| log.lines().count().saturating_sub(last));
    if before > 0 {
        let _ = writeln!(text, "  … {before} lines before; --log-level 1 shows them");
    }
    for line in log.lines().skip(before) {
        let _ = writeln!(text, "  {line}");
    }
}

fn said(text: &mut String, name: &str, by: &str, verdict: &Verdict) {
    let errno = match verdict.errno.as_str() {
        "" => String::new(),
        errno => format!("({errno})"),
    };
    let head = format!("{name}: {} {by}{errno}", word(verdict));
    let _ = match verdict.reason.as_str() {
        "" => writeln!(text, "\n{}", head.trim_end()),
        reason => writeln!(text, "\n{}: {reason}", head.trim_end()),
    };
}
