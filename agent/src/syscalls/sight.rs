//! Whether every system call instruction of this process is hooked, which is
//! never said too early: a call that brings text takes it back before it is
//! made, and a round gives it again. It knows no observer.
//!
//! Not covered: bytes that some program jumps to in the middle of what decodes
//! as another instruction, text that changes under its mapping (its file is
//! written, or a debugger writes), and a thread that was stopped by a signal,
//! when hooks came, right before the very instruction.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{observers, text};
use crate::threads;

/// Bit 0: all is seen. Then, 16 bits: calls under way that bring text. Then
/// how often one began or ended.
static WORD: AtomicU64 = AtomicU64::new(0);
const ALL: u64 = 1;
const UNDER_WAY: u64 = 1 << 1;
const UNDER_WAY_MASK: u64 = 0xffff << 1;
const CHANGE: u64 = 1 << 17;

/// Whether the calls of all threads are seen.
pub fn is_whole() -> bool {
    WORD.load(Ordering::SeqCst) & ALL != 0
}

fn update(change: impl Fn(u64) -> u64) -> u64 {
    let mut word = WORD.load(Ordering::Relaxed);
    loop {
        let new = change(word);
        match WORD.compare_exchange_weak(word, new, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return word,
            Err(now) => word = now,
        }
    }
}

/// A call that may bring text is about to be made. Reachable from trampolines.
pub fn text_comes() {
    let word = update(|word| (word & !ALL).wrapping_add(CHANGE + UNDER_WAY));
    if word & ALL != 0 {
        observers::tell_blind();
    }
}

/// It has been made. Reachable from trampolines.
pub fn text_came() {
    update(|word| match word & UNDER_WAY_MASK {
        0 => word,
        _ => word.wrapping_add(CHANGE) - UNDER_WAY,
    });
}

/// Something has changed for which there was no call.
pub fn lose() {
    if update(|word| (word & !ALL).wrapping_add(CHANGE)) & ALL != 0 {
        observers::tell_blind();
    }
}

/// In a forked child: calls of the parent's other threads are not under way.
pub fn forget_calls() {
    update(|word| word & !UNDER_WAY_MASK);
}

/// What a round knows of it.
#[derive(Debug, Default)]
pub struct Sight {
    /// The word before the round looked at anything.
    before: u64,
    /// Threads that may be right before an instruction, from before it was
    /// hooked, with their time in user mode then.
    passing: Vec<(i32, Option<u64>)>,
    /// Those threads could not be listed.
    is_unknown: bool,
}

/// Ticks in user mode (of 10 ms) behind which a thread has passed.
const PASSED: u64 = 3;

impl Sight {
    /// To be called before the round looks at the process.
    pub fn round_begins(&mut self) {
        self.before = WORD.load(Ordering::SeqCst);
    }

    /// Nobody asks: what is under way now will end unseen.
    pub fn rest(&mut self) {
        self.passing.clear();
        lose();
        forget_calls();
    }

    /// Hooks were written. If all was seen before, they are not needed for that.
    pub fn hooked(&mut self) {
        if is_whole() {
            return;
        }
        let all = threads::others();
        self.is_unknown = all.is_none();
        let all = all.unwrap_or_default().into_iter();
        self.passing = all.map(|tid| (tid, user_ticks(tid))).collect();
    }

    /// Whether every thread has left what was not hooked.
    pub fn is_settled(&self) -> bool {
        self.before & UNDER_WAY_MASK == 0 && !self.is_unknown && self.passing.is_empty()
    }

    /// At the end of a round, which found out whether all text that was there is
    /// hooked where it has to be.
    pub fn round_ends(&mut self, is_whole: bool) {
        if self.is_unknown {
            // They may be listed by now.
            self.hooked();
        }
        let has_passed = |tid: i32, since: Option<u64>| {
            let ran = user_ticks(tid).zip(since);
            is_elsewhere(tid) || ran.is_some_and(|(now, then)| now.saturating_sub(then) >= PASSED)
        };
        self.passing
            .retain(|(tid, since)| !has_passed(*tid, *since));
        let sees_all = is_whole && self.is_settled();
        if sees_all {
            let (old, new) = (self.before, self.before | ALL);
            // If anything has changed since, the next round says so.
            let _said = WORD.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        } else {
            lose();
        }
    }
}

/// Whether a thread has gone or is blocked in a call that nobody observes: what
/// it does next it does behind that.
fn is_elsewhere(tid: i32) -> bool {
    let Some(line) = threads::read(tid, "syscall") else {
        return threads::has_gone(tid);
    };
    let number = line.split(' ').next().and_then(|n| n.parse().ok());
    number.is_some_and(|nr: i64| nr >= 0 && !observers::observe(nr) && !text::brings_text(nr))
}

/// Time in user mode (field 14 of proc_pid_stat(5)), if it can be read.
fn user_ticks(tid: i32) -> Option<u64> {
    let line = threads::read(tid, "stat")?;
    let behind_name = line.rsplit(')').next()?;
    behind_name
        .split_ascii_whitespace()
        .nth(14 - 3)?
        .parse()
        .ok()
}
