//! Which sites have a block of their own (`arch::block`). It knows no
//! instruction.

use super::{Record, State};
use crate::arch::block::{self, HEAD, Place, Work};
use crate::arch::sys;
use crate::arena::Arena;
use crate::text::{Change, TextWriter};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// What processors fetch code by.
const LINE: u64 = 64;

/// Blocks that one site gets in its life: they are never freed.
const MOST_BLOCKS: usize = 4;

/// A site's blocks.
#[derive(Default)]
pub(super) struct Blocks {
    made: Vec<Block>,
    /// Where the trampoline is entered.
    entry: u64,
    /// What stands there, and what does when no block fits.
    pub(super) head: [u8; HEAD],
    idle_head: [u8; HEAD],
    /// What the trampoline adds to the stack pointer before its call.
    lowered: Option<i32>,
    /// No block can be made here.
    is_hopeless: bool,
}

struct Block {
    work: Work,
    /// What leads to it.
    head: [u8; HEAD],
}

impl Blocks {
    /// Of the trampoline at `at` with this code, which may begin with a block.
    pub(super) fn of(at: u64, code: &[u8], with: Option<(Work, bool)>) -> Blocks {
        let word = |at: u64| {
            let word = code.get(at as usize..).and_then(<[u8]>::first_chunk);
            word.copied().unwrap_or_default()
        };
        let own_head = word(block::head_of(0));
        let mut blocks = Blocks {
            entry: block::head_of(at),
            head: own_head,
            idle_head: own_head,
            lowered: block::lowered(&own_head),
            ..Blocks::default()
        };
        if let Some((work, flags_dead)) = with {
            let entry = block::entry_with(&work, flags_dead);
            let head = word(entry);
            let idle = block::head_to(at + entry, block::head_of(at), head);
            blocks.entry = at + entry;
            (blocks.head, blocks.idle_head) = (head, idle.unwrap_or(head));
            blocks.made.push(Block { work, head });
        }
        blocks
    }
}

impl Record {
    /// What a block could do for the probes.
    fn work(&self) -> Option<Work> {
        if !self.trampoline.is_multiple_of(HEAD as u64) {
            return None;
        }
        match (&self.entry[..], &self.exit[..]) {
            ([only], []) => Some(Work::Program(only.inline()?.clone(), only.hits())),
            ([], [_, ..]) => Some(Work::Return),
            _ => None,
        }
    }

    /// The number of the block that fits the probes, from 1; there may be none.
    fn fitting(&self) -> Option<usize> {
        let work = self.work()?;
        let fits = |block: &Block| block.work == work;
        Some(self.blocks.made.iter().position(fits)? + 1)
    }

    /// No block runs any more but one that fits. Before the lists are replaced
    /// that others look at.
    pub(super) fn disarm(&self) {
        let fitting = self.fitting().unwrap_or(0) as u32;
        let armed = &self.site.armed;
        if armed.load(Ordering::Relaxed) != fitting {
            armed.store(0, Ordering::Release);
        }
    }

    /// The block that the probes need, if there is none yet.
    pub(super) fn make_block(&mut self, arena: &mut Arena) -> Option<(u64, Vec<u8>)> {
        let may_have_more = self.blocks.made.len() < MOST_BLOCKS && !self.blocks.is_hopeless;
        if self.fitting().is_some() || !may_have_more {
            return None;
        }
        let work = self.work()?;
        let place = Place {
            trampoline: self.trampoline,
            lowered: self.blocks.lowered?,
            flags_dead: self.flags_dead,
            site: core::ptr::from_ref(self.site) as u64,
            number: self.blocks.made.len() as u32 + 1,
        };
        // As long wherever it is.
        let len = block::emit(self.trampoline, &place, &work)?.len() as u64;
        let room = len.next_multiple_of(LINE);
        let at = arena.near(self.trampoline, room)?;
        let code = block::emit(at, &place, &work).filter(|code| code.len() as u64 <= room);
        self.blocks.is_hopeless = code.is_none();
        let code = code?;
        let (from, to) = (self.blocks.entry, at + block::ENTERED);
        let head = block::head_to(from, to, self.blocks.idle_head)?;
        self.blocks.made.push(Block { work, head });
        Some((at, code))
    }

    /// Puts the head that fits into a trampoline that is not written yet.
    pub(super) fn put_head(&mut self, code: &mut [u8]) {
        let entry = self.blocks.entry - self.trampoline;
        let place = code.get_mut(entry as usize..);
        let place = place.and_then(<[u8]>::first_chunk_mut);
        if let (Some(change), Some(place)) = (self.new_head(), place) {
            *place = change.to;
            self.blocks.head = change.to;
        }
    }

    /// The head that fits the probes, unless it is there.
    pub(super) fn new_head(&self) -> Option<Change> {
        let fitting = self.fitting().and_then(|n| self.blocks.made.get(n - 1));
        let head = fitting.map_or(self.blocks.idle_head, |block| block.head);
        let at = self.blocks.entry;
        (head != self.blocks.head).then(|| Change::new(at, &self.blocks.head, &head))
    }
}

impl State {
    /// Makes the blocks that are missing, and lets those run that fit.
    pub(super) fn arm_blocks(&mut self, sites: &BTreeSet<u64>) {
        let arena = self.arena.get_or_insert_default();
        let mut writer = None;
        for addr in sites {
            let Some(record) = self.sites.get_mut(addr) else {
                continue;
            };
            if let Some((at, code)) = record.make_block(arena) {
                let writer = writer.get_or_insert_with(TextWriter::open);
                // SAFETY: fresh arena bytes; nothing jumps there yet.
                if unsafe { writer.write(at, &code) }.is_err() {
                    record.blocks.made.pop();
                }
            }
        }
        if writer.take().is_some() {
            // As after other code that was written: cores may have looked ahead.
            let _serialised = sys::sync_cores();
        }
        for record in sites.iter().filter_map(|addr| self.sites.get(addr)) {
            let fitting = record.fitting().unwrap_or(0);
            record.site.armed.store(fitting as u32, Ordering::Release);
        }
    }
}
