//! What one program printed: its last lines, within bounds. It knows nothing
//! of programs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What a line costs beside its text.
const LINE_BYTES: usize = 96;
/// Lines that are given away at once end with the one that goes beyond this.
const ANSWER_BYTES: usize = 1 << 20;

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    /// Said by the service about the program.
    Service,
}

/// A line, without its end.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Its number; the first line of a program is 0.
    pub cursor: u64,
    /// When it was read: milliseconds since 1970.
    pub time: u64,
    pub stream: Stream,
    pub text: String,
}

/// The last lines, of all streams together.
pub struct Log {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    limit: usize,
    next: u64,
}

impl Log {
    /// A log that holds about `limit` bytes.
    pub fn new(limit: usize) -> Log {
        Log {
            lines: VecDeque::new(),
            bytes: 0,
            limit,
            next: 0,
        }
    }

    /// Adds a line; the oldest go when there is no room. The newest stays whatever its size.
    pub fn push(&mut self, stream: Stream, text: String) {
        self.bytes += cost(&text);
        self.lines.push_back(Arc::new(Line {
            cursor: self.next,
            time: now(),
            stream,
            text,
        }));
        self.next += 1;
        while self.bytes > self.limit && self.lines.len() > 1 {
            if let Some(line) = self.lines.pop_front() {
                self.bytes -= cost(&line.text);
            }
        }
    }

    /// The cursor of the oldest line that is there; that is how many have been dropped.
    pub fn first(&self) -> u64 {
        self.next - self.lines.len() as u64
    }

    /// The cursor that the next line gets.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// At most `most` lines from `cursor` on, and no more than an answer should hold.
    pub fn from(&self, cursor: u64, most: usize) -> Vec<Arc<Line>> {
        let skip = usize::try_from(cursor.saturating_sub(self.first())).unwrap_or(usize::MAX);
        let mut room = ANSWER_BYTES;
        let has_room = |line: &&Arc<Line>| {
            let had = room;
            room = room.saturating_sub(cost(&line.text));
            had > 0
        };
        let lines = self.lines.iter().skip(skip).take(most);
        lines.take_while(has_room).cloned().collect()
    }
}

fn cost(text: &str) -> usize {
    text.len() + LINE_BYTES
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_the_oldest_and_counts_them() {
        let mut log = Log::new(3 * (LINE_BYTES + 1));
        for n in 0..5 {
            log.push(Stream::Stdout, n.to_string());
        }
        assert_eq!((log.first(), log.next()), (2, 5));
        let texts = |cursor, most| -> Vec<String> {
            let lines = log.from(cursor, most);
            lines.iter().map(|line| line.text.clone()).collect()
        };
        assert_eq!(texts(0, 2), ["2", "3"]);
        assert_eq!(texts(4, 9), ["4"]);
        assert_eq!(texts(9, 9), [""; 0]);
        log.push(Stream::Stdout, "x".repeat(1000));
        assert_eq!((log.first(), log.next()), (5, 6));
    }

    #[test]
    fn gives_away_no_more_than_an_answer_holds() {
        let mut log = Log::new(4 * ANSWER_BYTES);
        for _ in 0..3 {
            log.push(Stream::Stdout, "x".repeat(ANSWER_BYTES / 2));
        }
        assert_eq!((log.from(0, 9).len(), log.from(2, 9).len()), (2, 1));
        log.push(Stream::Stdout, "x".repeat(2 * ANSWER_BYTES));
        assert_eq!(log.from(3, 9).len(), 1, "one at least");
    }
}
