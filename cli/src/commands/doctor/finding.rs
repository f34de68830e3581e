//! One line of the doctor's report.

use std::fmt::Write;

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Tools and targets run, something else does not.
    Limited,
    /// The main job cannot work.
    Missing,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// What was looked at, how it is, and what to do if it is not well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub level: Level,
    what: &'static str,
    says: String,
}

impl Finding {
    pub fn ok(what: &'static str, says: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what,
            says: says.into(),
        }
    }

    /// `advice` says what to do, or why nothing need be done.
    pub fn limited(what: &'static str, says: impl Into<String>, advice: &str) -> Self {
        Self {
            level: Level::Limited,
            what,
            says: format!("{}: {advice}", says.into()),
        }
    }

    pub fn missing(what: &'static str, says: impl Into<String>, advice: &str) -> Self {
        Self {
            level: Level::Missing,
            what,
            says: format!("{}: {advice}", says.into()),
        }
    }
}

/// All findings, a line each, aligned.
pub fn render(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.what.len())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:7}  {:width$}  {}",
            finding.level.word(),
            finding.what,
            finding.says
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned() {
        let findings = [
            Finding::ok("kernel", "6.1"),
            Finding::missing("sessions", "/x is full", "free some"),
        ];
        assert_eq!(
            render(&findings),
            "ok       kernel    6.1\nmissing  sessions  /x is full: free some\n"
        );
    }
}
