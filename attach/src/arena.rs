//! Executable memory near text: where trampolines and the landings of punned
//! jumps lie. It knows no instruction and writes nothing.
//!
//! Pages are private (a forked child keeps them), readable and executable;
//! their bytes are written once, like a debugger would, and stay for ever.

use std::collections::BTreeMap;
use std::ops::Range;

use uapi::Errno;

use crate::arch::sys;
use crate::mappings::{Grows, Mapping};

const PAGE: u64 = 4096;
/// Trampolines are mapped in pieces of this size.
const CHUNK: u64 = 64 << 10;
/// How far a trampoline may be from the text it serves: RIP-relative operands
/// of displaced code, up to 128 MB further away, must stay in reach.
const REACH: u64 = 0x7000_0000;
/// The lowest address a process may map (vm.mmap_min_addr's usual value).
const LOWEST: u64 = 0x1_0000;
/// The end of user addresses without five-level paging.
const HIGHEST: u64 = 0x7fff_ffff_f000;
/// The heap grows up by brk(2): this much is left to it. Trampolines go below
/// the text where they can, and malloc(3) does without brk(2) in the end.
const HEAP_GROWTH: u64 = 64 << 20;
/// The main stack grows down: the kernel itself maps nothing nearer than this
/// (MIN_GAP in arch/x86/mm/mmap.c, 6.18).
const STACK_GROWTH: u64 = 128 << 20;

/// Ranges by start that do not overlap.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    by_start: BTreeMap<u64, u64>,
}

impl Intervals {
    pub(crate) const fn new() -> Intervals {
        Intervals {
            by_start: BTreeMap::new(),
        }
    }

    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        self.overlapping(range).is_some()
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let end = self.by_start.entry(range.start).or_insert(range.end);
        *end = range.end.max(*end);
    }

    /// Inserts a range that may overlap others: they become one.
    fn merge(&mut self, mut range: Range<u64>) {
        while let Some((start, end)) = self.overlapping(&range) {
            self.by_start.remove(&start);
            range = range.start.min(start)..range.end.max(end);
        }
        self.by_start.insert(range.start, range.end);
    }

    fn overlapping(&self, range: &Range<u64>) -> Option<(u64, u64)> {
        let below = self.by_start.range(..range.end).next_back();
        let below = below.map(|(start, end)| (*start, *end));
        below.filter(|(_, end)| *end > range.start)
    }

    /// Removes exactly this range, if it was inserted.
    pub(crate) fn remove(&mut self, range: &Range<u64>) {
        if self.by_start.get(&range.start) == Some(&range.end) {
            self.by_start.remove(&range.start);
        }
    }

    pub(crate) fn remove_starting_in(&mut self, range: &Range<u64>) {
        while let Some((&start, _)) = self.by_start.range(range.clone()).next() {
            self.by_start.remove(&start);
        }
    }
}

/// All executable memory of the engine.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// Pages that we mapped.
    mapped: Intervals,
    /// Bytes given away.
    used: Intervals,
    /// Pieces for trampolines: what is left of each.
    chunks: Vec<Range<u64>>,
    /// Pages of landings that may have room, each with where to look on.
    landings: BTreeMap<u64, u64>,
    /// What the process had mapped when we last looked, and room for growth.
    taken: Intervals,
}

impl Arena {
    /// Looks at the process's mappings anew; called before a batch.
    pub(crate) fn survey(&mut self, mappings: &[Mapping]) {
        self.taken = Intervals::default();
        for mapping in mappings {
            let mut range = mapping.range.clone();
            match mapping.grows {
                Grows::No => {}
                Grows::Up => range.end = range.end.saturating_add(HEAP_GROWTH),
                Grows::Down => range.start = range.start.saturating_sub(STACK_GROWTH),
            }
            // Growth may run over a neighbour.
            self.taken.merge(range);
        }
    }

    /// The pages that are ours.
    pub(crate) fn mapped(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.mapped.by_start.iter().map(|(start, end)| *start..*end)
    }

    /// Those of them that hold any of these addresses.
    pub(crate) fn mapped_with(&self, addrs: &[u64]) -> Vec<Range<u64>> {
        let holds = |range: &Range<u64>| addrs.iter().any(|addr| range.contains(addr));
        self.mapped().filter(holds).collect()
    }

    /// Room for a trampoline in reach of all of `near`.
    pub(crate) fn near(&mut self, near: u64, len: u64) -> Option<u64> {
        if let Some(at) = self.take_from_chunk(near, len) {
            return Some(at);
        }
        let mut distance = 1 << 20;
        while distance < REACH {
            for start in [near.checked_sub(distance), near.checked_add(distance)] {
                let Some(start) = start.map(|start| start & !(CHUNK - 1)) else {
                    continue;
                };
                let chunk = start..start + CHUNK;
                if self.map(&chunk).is_ok() {
                    self.chunks.push(chunk);
                    return self.take_from_chunk(near, len);
                }
            }
            distance += 1 << 20;
        }
        None
    }

    /// Room for `len` bytes inside a window where a jump can land, taken.
    pub(crate) fn within(&mut self, window: Range<u64>, len: u64) -> Option<u64> {
        // From a program at a low address a jump may lead around zero.
        let window = window.start.max(LOWEST)..window.end.min(HIGHEST);
        if let Some(at) = self.on_a_page_of_landings(&window, len) {
            return Some(at);
        }
        let mut at = window.start;
        while at < window.end {
            let range = at..at.checked_add(len)?;
            if let Some((_, end)) = self.used.overlapping(&range) {
                at = end;
                continue;
            }
            let Some(blocked_until) = self.map_pages_of(&range) else {
                self.landings.entry(at & !(PAGE - 1)).or_insert(range.end);
                self.used.insert(range);
                return Some(at);
            };
            at = blocked_until;
        }
        None
    }

    /// Room in a page that a window of several pages holds whole: so jumps with
    /// much choice share pages.
    fn on_a_page_of_landings(&mut self, window: &Range<u64>, len: u64) -> Option<u64> {
        let pages = window.start..window.end.saturating_sub(PAGE);
        if pages.is_empty() {
            return None;
        }
        let (&page, &next) = self.landings.range(pages).next()?;
        let mut at = next;
        while at + len <= page + PAGE {
            let range = at..at + len;
            match self.used.overlapping(&range) {
                Some((_, end)) => at = end,
                None => {
                    self.landings.insert(page, range.end);
                    self.used.insert(range);
                    return Some(at);
                }
            }
        }
        self.landings.remove(&page);
        self.on_a_page_of_landings(window, len)
    }

    /// Gives bytes back that were never written.
    pub(crate) fn give_back(&mut self, range: &Range<u64>) {
        self.used.remove_starting_in(range);
    }

    fn take_from_chunk(&mut self, near: u64, len: u64) -> Option<u64> {
        for chunk in &mut self.chunks {
            if chunk.start.abs_diff(near) >= REACH {
                continue;
            }
            // Landings may lie in a chunk: step over them.
            let mut at = chunk.start;
            while at + len <= chunk.end {
                let range = at..at + len;
                at += len;
                if !self.used.overlaps(&range) {
                    chunk.start = range.end;
                    self.used.insert(range.clone());
                    return Some(range.start);
                }
            }
        }
        None
    }

    /// Maps what is missing under `range`; gives where to go on if it cannot.
    fn map_pages_of(&mut self, range: &Range<u64>) -> Option<u64> {
        let mut page = range.start & !(PAGE - 1);
        while page < range.end {
            let one = page..page + PAGE;
            if !self.mapped.overlaps(&one) && self.map(&one).is_err() {
                let taken = self.taken.overlapping(&one).map_or(one.end, |(_, end)| end);
                return Some(taken.max(one.end));
            }
            page = one.end;
        }
        None
    }

    fn map(&mut self, range: &Range<u64>) -> Result<(), Errno> {
        let outside = range.start < LOWEST || range.end > HIGHEST;
        if outside || self.taken.overlaps(range) || self.mapped.overlaps(range) {
            return Err(Errno::EEXIST);
        }
        let mapped = sys::map_text_at(range.start, range.end - range.start);
        match mapped {
            Ok(()) => self.mapped.insert(range.clone()),
            // Someone was faster: do not ask again in this batch.
            Err(_) => self.taken.merge(range.clone()),
        }
        mapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mappings;

    #[test]
    fn neighbours_do_not_overlap() {
        let mut intervals = Intervals::default();
        intervals.insert(10..20);
        assert!(!intervals.overlaps(&(0..10)));
        assert!(!intervals.overlaps(&(20..30)));
        assert!(intervals.overlaps(&(19..20)));
        assert!(intervals.overlaps(&(0..11)));
        assert!(intervals.overlaps(&(0..100)));
    }

    #[test]
    fn heap_and_stack_may_grow() {
        let mut arena = Arena::default();
        arena.survey(&mappings::parse(
            "00400000-00401000 r-xp 00000000 00:00 0 /bin/x\n\
             00401000-00500000 rw-p 00000000 00:00 0 [heap]\n\
             7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0 [stack]\n",
        ));
        assert!(arena.taken.overlaps(&(0x0100_0000..0x0100_1000)));
        assert!(arena.taken.overlaps(&(0x7ffd_f900_0000..0x7ffd_f900_1000)));
        assert!(!arena.taken.overlaps(&(0x5000_0000..0x5000_1000)));
    }

    #[test]
    fn windows_beyond_the_address_space_are_empty() {
        let mut arena = Arena::default();
        assert_eq!(arena.within(0u64.wrapping_sub(1 << 24)..u64::MAX, 14), None);
        assert_eq!(arena.within(0..LOWEST, 14), None);
    }

    #[test]
    fn the_same_bytes_are_given_once() {
        let mut arena = Arena::default();
        arena.survey(&mappings::own().expect("own maps"));
        let near = heap_and_stack_may_grow as *const () as u64;
        let first = arena.near(near, 96).expect("room");
        let second = arena.near(near, 96).expect("room");
        assert!(first.abs_diff(second) >= 96);
        assert!(first.abs_diff(near) < REACH);
        let landing = second + 96 * 3;
        assert_eq!(arena.within(second..second + 1, 14), None, "taken");
        assert_eq!(arena.within(landing..landing + 1, 14), Some(landing));
        let third = arena.near(near, 96).expect("room");
        let fourth = arena.near(near, 96).expect("room");
        assert_eq!((third, fourth), (second + 96, second + 96 * 2));
        assert_eq!(
            arena.near(near, 96),
            Some(second + 96 * 4),
            "over the landing"
        );
    }
}
