//! What of a checkpoint the paths below it needed: which scalars had to have
//! the value that was claimed of them, and which stack slots were read. A new
//! state has to match a proven checkpoint in these only. It knows no
//! instructions: who makes a number matter calls [`Walk::need_precise`], who
//! reads the stack calls [`Walk::mark_read`].
//!
//! # Why that is sound
//!
//! *Sources.* Each scalar carries the set of scalars of the last checkpoint on
//! its path that its claim derives from. A checkpoint gives every scalar in it
//! a bit of its own; arithmetic unites the operands' sets; a branch against
//! another register, and what a branch teaches of linked scalars, unites with
//! the set of whoever taught. Immediates, loads from memory whose contents are
//! not tracked and results of calls derive from nothing: what is claimed of
//! them holds on every machine. So where the machine's values of the sources
//! satisfy the checkpoint's claims, the derived value satisfies its own, for
//! by induction over the path each step's claim follows from its inputs'.
//!
//! *Marks.* Every decision that rests on a scalar's claim (an offset or size
//! that was bounds-checked, a branch that was decided, a constant that selects
//! what a helper does, a stack byte kept as "zero") marks its sources precise.
//! A decision that rests on none is the same for every machine; a branch that
//! was not decided was walked both ways. The walk from a checkpoint would thus
//! have gone the same way, and been accepted, had all its other scalars been
//! unknown. That two scalars are equal ("linked") is a claim as well: it was
//! made after the checkpoint out of one set of sources, or it was there before,
//! and then whoever learns through it has both scalars among its sources, and
//! both must be linked in the new state if both are precise.
//!
//! *Transitivity.* A checkpoint keeps its scalars' sources in its parent, so a
//! mark goes on to the parent at once: whatever is marked in a checkpoint is
//! marked all the way up, and a mark that is already there ends the walk up.
//!
//! *Slots.* A slot whose eight bytes were overwritten since a checkpoint does
//! not hold what the checkpoint says; a read of any other slot marks it. Bytes
//! that "hold anything" need no mark, for every machine satisfies that.
//!
//! *Only closed checkpoints* have all their marks: no path below them is left,
//! and a path that ended at one marked its own chain with that one's marks. A
//! path that ended at an open one (see `progress`) goes on sharing its marks:
//! until that one is closed, too, none between them is.
//!
//! What follows for others: values that were claimed of a register while an
//! instruction was walked are no fact about all machines that execute it.

use super::walk::Walk;

/// A set of scalars of one checkpoint, numbered as [`super::state::State`]
/// walks them. Those from 127 on share the last bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sources(u128);

impl Sources {
    pub(super) const NONE: Sources = Sources(0);

    pub(super) const fn one(number: usize) -> Sources {
        Sources(1 << if number < 127 { number } else { 127 })
    }

    pub(super) const fn and(self, other: Sources) -> Sources {
        Sources(self.0 | other.0)
    }

    pub(super) const fn meets(self, other: Sources) -> bool {
        self.0 & other.0 != 0
    }

    const fn without(self, other: Sources) -> Sources {
        Sources(self.0 & !other.0)
    }

    const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a checkpoint knows of the path to it and of what was needed below it.
#[derive(Default)]
pub(super) struct Marks {
    /// Per scalar of the checkpoint: its sources in the checkpoint before.
    pub(super) sources: Vec<Sources>,
    /// Scalars whose claims were needed.
    pub(super) precise: Sources,
    /// Per frame: slots overwritten since the checkpoint before.
    pub(super) written: Vec<u64>,
    /// Per frame: slots that were read.
    pub(super) read: Vec<u64>,
}

impl Marks {
    /// Marks scalars precise: which of them are new, and what those need of
    /// the checkpoint before.
    fn need(&mut self, wanted: Sources) -> (Sources, Sources) {
        let new = wanted.without(self.precise);
        self.precise = self.precise.and(new);
        let mut above = Sources::NONE;
        if !new.is_empty() {
            for (number, sources) in self.sources.iter().enumerate() {
                if Sources::one(number).meets(new) {
                    above = above.and(*sources);
                }
            }
        }
        (new, above)
    }

    /// Marks slots read; which of them are new.
    fn read(&mut self, frame: usize, slots: u64) -> u64 {
        let new = slots & !self.read[frame];
        self.read[frame] |= new;
        new
    }
}

/// A path that ended at a checkpoint that may still get marks: they are the
/// path's, too.
pub(super) struct BackEdge {
    /// The path's last checkpoint.
    pub(super) from: Option<usize>,
    /// Scalars of the checkpoint, and the sources of what the path had there.
    pub(super) scalars: Vec<(Sources, Sources)>,
    /// Per frame: slots that the path overwrote.
    pub(super) written: Vec<u64>,
}

impl BackEdge {
    /// What the path needs where the checkpoint needs `scalars`.
    fn need(&self, scalars: Sources) -> Sources {
        let hit = self.scalars.iter().filter(|pair| pair.0.meets(scalars));
        hit.fold(Sources::NONE, |all, pair| all.and(pair.1))
    }
}

impl Walk<'_> {
    /// The path goes on only because of what is claimed of a value.
    pub(super) fn need_precise(&mut self, sources: Sources) {
        self.need_precise_at(self.parent, sources);
    }

    fn need_precise_at(&mut self, checkpoint: Option<usize>, sources: Sources) {
        let (mut wanted, mut up) = (sources, checkpoint);
        let mut elsewhere = Vec::new();
        loop {
            while let Some(index) = up
                && !wanted.is_empty()
            {
                let checkpoint = &mut self.checkpoints[index];
                let (new, above) = checkpoint.marks.need(wanted);
                for edge in &checkpoint.back_edges {
                    elsewhere.push((edge.from, edge.need(new)));
                }
                (wanted, up) = (above, checkpoint.parent);
            }
            match elsewhere.pop() {
                Some(next) => (up, wanted) = next,
                None => return,
            }
        }
    }

    /// The path depends on what these slots of a frame hold.
    pub(super) fn mark_read(&mut self, frame: usize, slots: u64) {
        let slots = slots & !self.state.frames[frame].written;
        self.mark_read_at(self.parent, frame, slots);
    }

    fn mark_read_at(&mut self, checkpoint: Option<usize>, frame: usize, slots: u64) {
        let (mut slots, mut up) = (slots, checkpoint);
        let mut elsewhere = Vec::new();
        loop {
            while let Some(index) = up
                && slots != 0
            {
                let checkpoint = &mut self.checkpoints[index];
                let new = checkpoint.marks.read(frame, slots);
                for edge in &checkpoint.back_edges {
                    elsewhere.push((edge.from, new & !edge.written[frame]));
                }
                slots = new & !checkpoint.marks.written[frame];
                up = checkpoint.parent;
            }
            match elsewhere.pop() {
                Some(next) => (up, slots) = next,
                None => return,
            }
        }
    }

    /// Marks what a checkpoint has marked so far as the path's in hand, and
    /// whatever it will mark.
    pub(super) fn share_marks(&mut self, checkpoint: usize, scalars: Vec<(Sources, Sources)>) {
        let frames = self.state.frames.iter();
        let edge = BackEdge {
            from: self.parent,
            scalars,
            written: frames.map(|f| f.written).collect(),
        };
        let marks = &self.checkpoints[checkpoint].marks;
        let wanted = edge.need(marks.precise);
        let read = marks.read.clone();
        self.checkpoints[checkpoint].back_edges.push(edge);
        self.need_precise(wanted);
        for (frame, slots) in read.into_iter().enumerate() {
            self.mark_read(frame, slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_asks_for_the_sources_of_what_is_new() {
        let mut marks = Marks {
            sources: vec![Sources::one(3), Sources::NONE, Sources::one(5)],
            ..Marks::default()
        };
        let both = Sources::one(0).and(Sources::one(1));
        assert_eq!(marks.need(both), (both, Sources::one(3)));
        let more = both.and(Sources::one(2));
        assert_eq!(marks.need(more), (Sources::one(2), Sources::one(5)));
        assert_eq!(marks.need(both), (Sources::NONE, Sources::NONE));
    }

    #[test]
    fn scalars_beyond_the_last_bit_share_it() {
        let mut marks = Marks {
            sources: (0..140).map(|n| Sources::one(n % 100)).collect(),
            ..Marks::default()
        };
        let (_, above) = marks.need(Sources::one(139));
        let expected = (127..140).fold(Sources::NONE, |set, n| set.and(Sources::one(n % 100)));
        assert_eq!(above, expected);
    }
}
