//! The verifier's log. Tools parse it, so lines follow the kernel's (Linux
//! 6.18): level 1 shows the path that failed, level 2 all paths, 4 adds
//! statistics. What was refused is explained below in our own words.
//!
//! `trace` prints instructions and states on the way, `state` registers,
//! `explain` refusals. They know no rules.

mod explain;
mod state;
mod trace;

pub(super) use trace::Trace;

/// Bit of `log_level` that asks for the failing path.
const LEVEL1: u32 = 1;
/// Bit of `log_level` that asks for all paths.
const LEVEL2: u32 = 2;
/// Bit of `log_level` that asks for statistics.
const STATS: u32 = 4;

/// Which part of a log that is too long is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The last bytes; what `BPF_PROG_LOAD` does by itself.
    End(usize),
    /// The first bytes (`BPF_LOG_FIXED`).
    Start(usize),
}

/// What `BPF_PROG_LOAD` writes to `log_buf`.
#[derive(Clone, Debug)]
pub struct Log {
    /// `log_level` of `BPF_PROG_LOAD`.
    pub level: u32,
    /// The text that was kept.
    pub text: String,
    keep: Keep,
    /// Bytes that went lost before `text`.
    lost: usize,
    /// Bytes so far, kept or not.
    end: usize,
    longest: usize,
}

impl Log {
    /// An empty log that keeps at most so many bytes, give or take one path's
    /// rewinding.
    pub fn new(level: u32, keep: Keep) -> Log {
        Log {
            level,
            text: String::new(),
            keep,
            lost: 0,
            end: 0,
            longest: 0,
        }
    }

    /// Bytes that the whole log had, without terminating zero.
    pub fn true_len(&self) -> usize {
        self.longest
    }

    /// Adds a line: why a program was refused before it was walked.
    pub fn line(&mut self, text: &str) {
        if self.wants(LEVEL1 | LEVEL2) {
            self.push(text);
            self.push("\n");
        }
    }

    fn wants(&self, levels: u32) -> bool {
        self.level & levels != 0
    }

    fn push(&mut self, text: &str) {
        self.end += text.len();
        self.longest = self.longest.max(self.end);
        match self.keep {
            Keep::Start(room) => {
                let left = room.saturating_sub(self.text.len());
                // Once something was left out, nothing may follow it.
                if self.end - text.len() == self.text.len() {
                    self.text.push_str(&text[..floor_boundary(text, left)]);
                }
            }
            Keep::End(room) => {
                self.text.push_str(text);
                if self.text.len() > room.saturating_mul(2) {
                    let cut = self.text.len() - room;
                    let cut = (cut..)
                        .find(|&n| self.text.is_char_boundary(n))
                        .unwrap_or(0);
                    self.text.drain(..cut);
                    self.lost += cut;
                }
            }
        }
    }

    /// Takes back what was written since `end` bytes.
    fn rewind(&mut self, end: usize) {
        self.end = end;
        if end < self.lost {
            self.lost = end;
            self.text.clear();
        } else {
            let keep = floor_boundary(&self.text, end - self.lost);
            self.text.truncate(keep);
        }
    }
}

/// The last character boundary at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|&n| text.is_char_boundary(n))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_the_length_counted() {
        let mut log = Log::new(2, Keep::End(4));
        for _ in 0..100 {
            log.push("ab\n");
        }
        assert!(log.text.len() <= 8);
        assert!(log.text.ends_with("ab\nab\n"));
        assert_eq!(log.true_len(), 300);
    }

    #[test]
    fn the_start_is_kept() {
        let mut log = Log::new(2, Keep::Start(4));
        log.push("äö");
        log.push("ü");
        log.push("x");
        assert_eq!((log.text.as_str(), log.true_len()), ("äö", 7));
    }

    #[test]
    fn a_finished_path_is_taken_back() {
        let mut log = Log::new(1, Keep::End(100));
        log.push("one\n");
        let here = log.end;
        log.push("two\n");
        log.rewind(here);
        log.push("3\n");
        assert_eq!((log.text.as_str(), log.true_len()), ("one\n3\n", 8));
    }
}
