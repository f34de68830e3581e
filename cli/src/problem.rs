//! What a user is told when something cannot be done: one line, one exit
//! status. It knows no subcommand.

use std::fmt;

use runtime::session::SessionError;

/// Exit status of a command that exists but cannot be run, as shells use it.
pub const CANNOT_RUN: u8 = 126;
/// Exit status of a command that does not exist, as shells use it.
pub const NOT_FOUND: u8 = 127;

/// A failure in a user's words. Prints as `WHO: WHAT HAPPENED: WHAT TO DO`
/// on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    who: String,
    happened: String,
    advice: String,
    status: u8,
}

impl Problem {
    /// `who` is the file, process or directory in question. Exit status 1.
    pub fn new(
        who: impl fmt::Display,
        happened: impl fmt::Display,
        advice: impl fmt::Display,
    ) -> Self {
        Self {
            who: one_line(who),
            happened: one_line(happened),
            advice: one_line(advice),
            status: 1,
        }
    }

    /// The same problem with another exit status.
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// What happened, without to whom.
    pub fn happened(&self) -> &str {
        &self.happened
    }

    /// What to do about it.
    pub fn advice(&self) -> &str {
        &self.advice
    }

    /// The exit status of `bpftime`.
    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.who, self.happened, self.advice)
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NotWritable {
                path,
                variable,
                errno,
            } => Self::new(
                path.display(),
                format_args!("not writable ({errno})"),
                format_args!("set {variable} to a directory of your own"),
            ),
            SessionError::Foreign { path, variable, .. } => Self::new(
                path.display(),
                "is not a directory of yours",
                format_args!("remove it, or set {variable} to another one"),
            ),
            other => Self::new("sessions", other, "see bpftime doctor"),
        }
    }
}

/// File names may hold any byte: a control character must not break the line
/// or drive the terminal.
fn one_line(text: impl fmt::Display) -> String {
    text.to_string()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_line_whatever_the_name() {
        let problem =
            Problem::new("a\nb\x1b[0m", "no such file", "check the path").with_status(NOT_FOUND);
        assert_eq!(problem.to_string(), "a?b?[0m: no such file: check the path");
        assert_eq!(problem.status(), 127);
    }
}
