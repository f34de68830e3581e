//! Changing text under running threads: the one place where live text
//! changes. It knows neither why nor what the bytes mean.
//!
//! Bytes inside one aligned word change by one aligned eight-byte store; no
//! core was ever seen to fetch a torn instruction then (Intel family 6 model
//! 167 and AMD Zen 5: 0 in 10^10 executions). For the length of a batch the
//! mappings of its changes are writable, each as a whole: a part of one would
//! stay a mapping of its own for ever, for the kernel keeps account of what
//! was writable once. Where a mapping is not plain text or may not become
//! writable, bytes are written to /proc/self/mem. That is no such store: the
//! kernel copies by `rep movsb` where the processor is fast at it, and on a
//! loaded machine a thread ran half of such a copy (1 of 66 test runs).
//! Bytes of two words that are one aligned pair change by one `cmpxchg16b`,
//! where the head does not fit in a word: processors fetch such a pair at once.
//! Other bytes change in three steps, with every core serialised in between:
//! `jmp self` at the head, the tail, the head. No breakpoint is ever written:
//! a thread that blocks SIGTRAP would die of it.
//!
//! While a `jmp self` stands, threads that come by wait, the caller's among
//! them if it called anything that is being changed: hence plain system calls
//! by instruction and no library function between the steps.

use core::ops::Range;
use core::ptr;

use uapi::Errno;

use crate::arch::sys::{self, OwnMemory};
use crate::arch::words;
use crate::leaving;
use crate::mappings::{self, Mapping};

const WORD: u64 = 8;
const PAGE: u64 = 4096;
/// `jmp self`.
const WAIT_HERE: [u8; 2] = [0xeb, 0xfe];
/// Most bytes of one change: an address.
pub(crate) const MOST_BYTES: usize = 8;

/// Bytes of one instruction (and of padding behind it) to be replaced, or an
/// address in a trampoline; those at its start and end may stay what they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) addr: u64,
    pub(crate) len: usize,
    pub(crate) from: [u8; MOST_BYTES],
    pub(crate) to: [u8; MOST_BYTES],
}

impl Change {
    /// Replaces `from` by `to`, of one length.
    pub(crate) fn new(addr: u64, from: &[u8], to: &[u8]) -> Change {
        let mut change = Change {
            addr,
            len: to.len(),
            from: [0; MOST_BYTES],
            to: [0; MOST_BYTES],
        };
        change.from[..to.len()].copy_from_slice(&from[..to.len()]);
        change.to[..to.len()].copy_from_slice(to);
        change
    }

    /// The change that undoes this one.
    pub(crate) fn reversed(self) -> Change {
        Change {
            from: self.to,
            to: self.from,
            ..self
        }
    }

    fn end(&self) -> u64 {
        self.addr + self.len as u64
    }

    /// The bytes that become others, counted from `addr`.
    fn difference(&self) -> Range<usize> {
        let differs = |i: &usize| self.from[*i] != self.to[*i];
        let first = (0..self.len).find(differs).unwrap_or(0);
        let last = (first..self.len).rev().find(differs).unwrap_or(first);
        first..last + 1
    }

    /// Whether one aligned piece of `size` bytes holds all that changes.
    fn is_in_one(&self, size: u64) -> bool {
        let difference = self.difference();
        let at = self.addr + difference.start as u64;
        at % size + difference.len() as u64 <= size
    }

    /// Whether one aligned word holds all that changes.
    pub(crate) fn is_in_one_word(&self) -> bool {
        self.is_in_one(WORD)
    }

    /// Whether two words that the processor writes at once hold all of it.
    pub(crate) fn is_in_one_pair(&self) -> bool {
        self.is_in_one(2 * WORD) && words::can_swap_pairs()
    }

    /// Whether it can be made in steps: the head in one word, and a tail.
    pub(crate) fn can_be_stepped(&self) -> bool {
        self.len >= WAIT_HERE.len() && self.addr % WORD + WAIT_HERE.len() as u64 <= WORD
    }
}

/// What became of one change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// All threads run the new bytes.
    Done,
    /// The bytes were not `from`; nothing was written.
    Unexpected,
    /// The kernel denied the write; nothing was written.
    Denied(Errno),
}

/// A writer of text.
pub(crate) struct TextWriter {
    /// Mappings that are writable as long as this lives, by address.
    opened: Vec<Range<u64>>,
    /// `None` where it is not needed, or /proc is missing or denied: page
    /// protections are then changed for the moment of a write.
    memory: Option<OwnMemory>,
}

impl TextWriter {
    /// Opens what is needed for text that is not executed; dropped soon, for
    /// it may hold an fd.
    pub(crate) fn open() -> TextWriter {
        TextWriter {
            opened: Vec::new(),
            memory: OwnMemory::open().ok(),
        }
    }

    /// The same for much of it: `own` pages, which hold nothing but
    /// trampolines, are writable as long as this lives.
    pub(crate) fn open_own(own: impl Iterator<Item = Range<u64>>) -> TextWriter {
        let mut writer = TextWriter::open();
        let opened = own.filter(|range| Pages::from(range).make_writable().is_ok());
        writer.opened.extend(opened);
        writer
    }

    /// Makes the mappings of all changes writable, where that leaves no trace.
    fn open_for(changes: &[Change], mappings: &[Mapping]) -> TextWriter {
        let mut opened: Vec<Range<u64>> = Vec::new();
        let mut is_all_open = true;
        for change in changes {
            for addr in [change.addr, change.end() - 1] {
                if opened.iter().any(|range| range.contains(&addr)) {
                    continue;
                }
                let mapping = mappings::holding(mappings, addr).filter(|m| m.is_text);
                let open = mapping
                    .map(|mapping| mapping.range.clone())
                    .filter(|range| Pages::from(range).make_writable().is_ok());
                match open {
                    Some(range) => opened.push(range),
                    None => is_all_open = false,
                }
            }
        }
        let memory = (!is_all_open).then(|| OwnMemory::open().ok()).flatten();
        TextWriter { opened, memory }
    }

    fn is_open(&self, range: &Range<u64>) -> bool {
        self.opened
            .iter()
            .any(|open| open.start <= range.start && range.end <= open.end)
    }

    /// Writes bytes that no thread executes: trampolines, dead padding.
    ///
    /// # Safety
    /// `addr..` is text that no thread executes, in readable pages.
    pub(crate) unsafe fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        let store = || {
            for (i, byte) in bytes.iter().enumerate() {
                // SAFETY: the caller's contract; the pages are writable here.
                unsafe { ((addr + i as u64) as *mut u8).write_volatile(*byte) };
            }
        };
        if self.is_open(&(addr..addr + bytes.len() as u64)) {
            store();
            return Ok(());
        }
        if let Some(memory) = &self.memory {
            // SAFETY: the caller's contract.
            if unsafe { memory.write(addr, bytes) }.is_ok() {
                return Ok(());
            }
        }
        let pages = Pages::of(addr, bytes.len() as u64);
        pages.make_writable()?;
        store();
        pages.make_text()
    }

    /// Writes one aligned word, at once if its mapping is open.
    ///
    /// # Safety
    /// `addr` is aligned, in readable text, and every thread may run `word`
    /// from now on.
    unsafe fn write_word(&self, addr: u64, word: u64) -> Result<(), Errno> {
        // SAFETY: aligned, and writable wherever this is called; one store.
        let store = || unsafe { (addr as *mut u64).write_volatile(word) };
        if self.is_open(&(addr..addr + WORD)) {
            store();
            return Ok(());
        }
        if let Some(memory) = &self.memory {
            // SAFETY: the caller's contract.
            if unsafe { memory.write(addr, &word.to_le_bytes()) }.is_ok() {
                return Ok(());
            }
        }
        let pages = Pages::of(addr, WORD);
        pages.make_writable()?;
        store();
        pages.make_text()
    }

    /// Replaces `bytes` inside one aligned word, if they are `expected`.
    ///
    /// # Safety
    /// As for [`change`].
    unsafe fn swap(&self, addr: u64, expected: &[u8], bytes: &[u8]) -> Outcome {
        let base = addr & !(WORD - 1);
        let at = (addr - base) as usize;
        // SAFETY: text is readable, the word aligned.
        let word = unsafe { ptr::read_volatile(base as *const u64) };
        let mut now = word.to_le_bytes();
        for (i, (byte, expected)) in bytes.iter().zip(expected).enumerate() {
            match now.get_mut(at + i) {
                Some(old) if *old == *expected => *old = *byte,
                _ => return Outcome::Unexpected,
            }
        }
        // SAFETY: the caller's contract.
        match unsafe { self.write_word(base, u64::from_le_bytes(now)) } {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Denied(error),
        }
    }
}

/// Whether [`change`] can make a change at all.
pub(crate) fn is_possible(change: &Change, can_step: bool) -> bool {
    change.is_in_one_word() || (can_step && change.can_be_stepped()) || change.is_in_one_pair()
}

/// Makes all changes; every thread runs the new bytes afterwards. Gives one
/// outcome per change.
///
/// # Safety
/// The caller holds the engine's lock, with signals blocked. Each change's
/// bytes are one instruction's, with padding that nobody executes behind it or
/// without, in readable and mapped text, and `to` may be executed by any thread
/// from now on. `can_step` says whether [`sys::sync_cores`] works.
pub(crate) unsafe fn change(changes: &[Change], can_step: bool) -> Vec<Outcome> {
    for change in changes {
        leaving::note_change(change.addr);
    }
    let mappings = mappings::own();
    let writer = TextWriter::open_for(changes, mappings.as_deref().unwrap_or_default());
    let is_gone = |addr| {
        let mappings = mappings.as_deref();
        mappings.is_some_and(|mappings| mappings::holding(mappings, addr).is_none())
    };
    let mut outcomes = vec![Outcome::Unexpected; changes.len()];
    let mut stepped = Vec::with_capacity(changes.len());
    for (change, outcome) in changes.iter().zip(&mut outcomes) {
        let is_moving = leaving::is_moving(change.addr) || leaving::is_moving(change.end() - 1);
        if is_moving || is_gone(change.addr) || is_gone(change.end() - 1) {
            continue;
        }
        if change.is_in_one_word() {
            let bytes = change.difference();
            // SAFETY: the caller's contract.
            *outcome = unsafe {
                writer.swap(
                    change.addr + bytes.start as u64,
                    &change.from[bytes.clone()],
                    &change.to[bytes],
                )
            };
        } else if !is_at(change) {
            continue;
        } else if can_step && change.can_be_stepped() {
            stepped.push((change, outcome));
        } else if change.is_in_one_pair() {
            // SAFETY: the caller's contract.
            *outcome = unsafe { writer.swap_pair(change) };
        }
    }
    if !stepped.is_empty() {
        for (change, outcome) in &mut stepped {
            // SAFETY: the caller's contract; `jmp self` only delays.
            **outcome = unsafe { writer.swap(change.addr, &change.from[..2], &WAIT_HERE) };
        }
        serialise();
        for (change, outcome) in &mut stepped {
            if **outcome == Outcome::Done {
                // SAFETY: no thread gets past `jmp self`, so none executes the
                // tail, and `to` is the caller's contract.
                let tail = unsafe { writer.write(change.addr + 2, &change.to[2..change.len]) };
                if let Err(error) = tail {
                    **outcome = Outcome::Denied(error);
                }
            }
        }
        serialise();
        for (change, outcome) in &mut stepped {
            let head = match **outcome {
                Outcome::Done => &change.to[..2],
                Outcome::Denied(_) => &change.from[..2],
                Outcome::Unexpected => continue,
            };
            // SAFETY: the instruction behind the head is whole again.
            unsafe { writer.swap(change.addr, &WAIT_HERE, head) };
        }
    }
    serialise();
    outcomes
}

/// Makes one change of text that is being moved, on a thread of the program:
/// allocates nothing, and changes no page's protection where that can be
/// helped, for what was one mapping has to stay one.
///
/// # Safety
/// As for [`change`].
pub(crate) unsafe fn change_moving(change: &Change, can_step: bool) -> Outcome {
    let writer = TextWriter::open();
    if change.is_in_one_word() {
        let bytes = change.difference();
        let (from, to) = (&change.from[bytes.clone()], &change.to[bytes.clone()]);
        // SAFETY: the caller's contract.
        return unsafe { writer.swap(change.addr + bytes.start as u64, from, to) };
    }
    if !is_at(change) {
        return Outcome::Unexpected;
    }
    let steps = can_step && change.can_be_stepped();
    if steps {
        // SAFETY: the caller's contract; `jmp self` only delays.
        let waits = unsafe { writer.swap(change.addr, &change.from[..2], &WAIT_HERE) };
        if waits != Outcome::Done {
            return waits;
        }
        serialise();
    }
    // What cannot be stepped is written at once, as far as the kernel does so.
    let start = if steps { WAIT_HERE.len() } else { 0 };
    let to = &change.to[start..change.len];
    // SAFETY: the caller's contract; of steps, no thread executes the tail.
    let written = unsafe { writer.write(change.addr + start as u64, to) };
    let head = match written {
        Ok(()) => &change.to[..2],
        Err(_) => &change.from[..2],
    };
    if steps {
        serialise();
        // SAFETY: the instruction behind the head is whole again.
        unsafe { writer.swap(change.addr, &WAIT_HERE, head) };
    }
    serialise();
    written.map_or_else(Outcome::Denied, |()| Outcome::Done)
}

/// Whether the bytes are `from`.
fn is_at(change: &Change) -> bool {
    change.from[..change.len]
        .iter()
        .enumerate()
        .all(|(i, byte)| {
            // SAFETY: text of the caller's contract, readable.
            *byte == unsafe { ((change.addr + i as u64) as *const u8).read_volatile() }
        })
}

/// Steps are only taken where this works; elsewhere cores follow by themselves.
fn serialise() {
    let _serialised = sys::sync_cores();
}

impl TextWriter {
    /// Replaces bytes that two neighbouring words hold, as one.
    ///
    /// # Safety
    /// As for [`change`].
    unsafe fn swap_pair(&self, change: &Change) -> Outcome {
        let base = change.addr & !(2 * WORD - 1);
        let at = change.addr - base;
        if !self.is_open(&(base..base + 2 * WORD)) {
            return Outcome::Denied(Errno::EACCES);
        }
        // SAFETY: text is readable, the words aligned.
        let old: [u64; 2] = unsafe { [0, 1].map(|i| (base as *const u64).add(i).read_volatile()) };
        let old = u128::from(old[0]) | u128::from(old[1]) << 64;
        let mut new = old.to_le_bytes();
        for i in change.difference() {
            if let Some(byte) = new.get_mut(at as usize + i) {
                *byte = change.to[i];
            }
        }
        // SAFETY: aligned, and writable; every thread may run it.
        if unsafe { words::swap_pair(base as *mut u128, old, u128::from_le_bytes(new)) } {
            Outcome::Done
        } else {
            Outcome::Unexpected
        }
    }
}

impl Drop for TextWriter {
    fn drop(&mut self) {
        for range in &self.opened {
            // It was text a moment ago. Nothing better can be done if not.
            let _text = Pages::from(range).make_text();
        }
    }
}

/// Whole pages of text.
struct Pages {
    start: u64,
    len: u64,
}

impl Pages {
    fn from(range: &Range<u64>) -> Pages {
        Pages {
            start: range.start,
            len: range.end - range.start,
        }
    }

    /// Those around some bytes.
    fn of(addr: u64, len: u64) -> Pages {
        let start = addr & !(PAGE - 1);
        let end = (addr + len + PAGE - 1) & !(PAGE - 1);
        Pages {
            start,
            len: end - start,
        }
    }

    /// Writable and executable for a moment: other threads run in the pages.
    fn make_writable(&self) -> Result<(), Errno> {
        sys::protect_text(self.start, self.len, true)
    }

    fn make_text(&self) -> Result<(), Errno> {
        sys::protect_text(self.start, self.len, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page of text whose bytes are their offsets.
    fn page() -> u64 {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping.
        let page = unsafe { libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0) };
        assert_ne!(page, libc::MAP_FAILED);
        for i in 0..=255_u8 {
            // SAFETY: inside the page.
            unsafe { page.cast::<u8>().add(i.into()).write(i) };
        }
        sys::protect_text(page as u64, 4096, false).expect("executable");
        page as u64
    }

    fn bytes(addr: u64) -> [u8; 8] {
        // SAFETY: inside a page of `page`.
        std::array::from_fn(|i| unsafe { ((addr + i as u64) as *const u8).read_volatile() })
    }

    fn check(offset: u64, len: usize, can_step: bool, expected: Outcome) {
        let addr = page() + offset;
        let (before, new) = (
            bytes(addr),
            [0xe9, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7],
        );
        let there = Change::new(addr, &before, &new[..len]);
        // SAFETY: nobody executes the page.
        let change_one = |one| unsafe { change(&[one], can_step) };
        assert_eq!(change_one(there), [expected], "{offset} {len}");
        let mut after = before;
        if expected == Outcome::Done {
            after[..len].copy_from_slice(&new[..len]);
        }
        assert_eq!(bytes(addr), after, "{offset} {len}");
        if expected == Outcome::Done {
            assert_eq!(change_one(there), [Outcome::Unexpected], "once");
            assert_eq!(change_one(there.reversed()), [Outcome::Done]);
        }
        assert_eq!(bytes(addr), before, "{offset} {len}");
    }

    #[test]
    fn every_offset_and_length() {
        sys::register_sync_cores().expect("membarrier");
        for offset in 64..80 {
            for len in 1..=MOST_BYTES {
                let in_word = offset % 8 + len as u64 <= 8;
                let in_pair = offset % 16 + len as u64 <= 16;
                let has_head = len >= 2 && offset % 8 != 7;
                let outcome = |is_possible| {
                    if is_possible {
                        Outcome::Done
                    } else {
                        Outcome::Unexpected
                    }
                };
                check(offset, len, true, outcome(in_word || in_pair || has_head));
                check(offset, len, false, outcome(in_word || in_pair));
            }
        }
    }

    #[test]
    fn bytes_that_stay_need_no_room_in_a_word() {
        let retarget = Change::new(7, &[0xe9, 1, 2, 3, 4], &[0xe9, 5, 6, 7, 8]);
        assert!(retarget.is_in_one_word());
        let front = Change::new(4, &[1, 2, 3, 4, 5], &[9, 2, 9, 4, 5]);
        assert!(front.is_in_one_word());
        assert!(!Change::new(15, &[1, 2], &[3, 4]).is_in_one_pair());
        assert!(Change::new(7, &[1, 2], &[3, 4]).is_in_one_pair());
    }

    #[test]
    fn without_proc_the_page_is_writable_for_a_moment() {
        let writer = TextWriter {
            opened: Vec::new(),
            memory: None,
        };
        let addr = page() + 64;
        // SAFETY: nobody executes the page.
        let outcome = unsafe { writer.swap(addr + 1, &[65, 66], &[1, 2]) };
        assert_eq!(outcome, Outcome::Done);
        assert_eq!(bytes(addr), [64, 1, 2, 67, 68, 69, 70, 71]);
        // SAFETY: as above; across two pages' worth of nothing else.
        unsafe { writer.write(addr, &[9; 3]) }.expect("written");
        assert_eq!(bytes(addr), [9, 9, 9, 67, 68, 69, 70, 71]);
        let maps = std::fs::read_to_string("/proc/self/maps").expect("own maps");
        let line = maps
            .lines()
            .find(|line| line.starts_with(&format!("{:x}-", addr & !0xfff)));
        assert!(line.is_some_and(|line| line.contains(" r-xp ")), "{line:?}");
    }
}
