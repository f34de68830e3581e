//! Whether one abstract state stands for all machines that another stands
//! for: then what was proven for the first holds for the second. It knows
//! nothing of how states come about.

use super::cfg::Cfg;
use super::packet;
use super::precision::{Marks, Sources};
use super::state::{Byte, DynPtrType, Frame, Kind, Reg, Slot, State};

/// Registers that survive a call: r6 to r10.
const CALLEE_SAVED: u16 = 0x7c0;

/// Which ids of one state play the part of which ids of the other.
#[derive(Default)]
struct Ids {
    /// Linked scalars of the known state must be linked in the new one, at the
    /// same distances: the third is new delta minus old delta.
    scalars: Vec<(u32, u32, i64)>,
    /// NULL checks and references must match one to one.
    pointers: Vec<(u32, u32)>,
    /// Stands for the id of a scalar that is equal to no other.
    unlinked: u32,
}

impl Ids {
    fn scalar(&mut self, old: &Reg, new: &Reg) -> bool {
        if old.id == 0 {
            return true;
        }
        let id = if new.id == 0 {
            self.unlinked += 1;
            u32::MAX - self.unlinked
        } else {
            new.id
        };
        let shift = new.delta.wrapping_sub(old.delta);
        match self.scalars.iter().find(|p| p.0 == old.id) {
            Some(pair) => *pair == (old.id, id, shift),
            None => {
                self.scalars.push((old.id, id, shift));
                true
            }
        }
    }

    fn pointer(&mut self, old: u32, new: u32) -> bool {
        if old == 0 || new == 0 {
            return old == new;
        }
        match self.pointers.iter().find(|p| p.0 == old || p.1 == new) {
            Some(pair) => *pair == (old, new),
            None => {
                self.pointers.push((old, new));
                true
            }
        }
    }
}

/// How closely a new state must match.
#[derive(Clone, Copy)]
enum Match<'a> {
    /// In what was needed below a proven checkpoint.
    Needed(&'a Marks),
    /// In everything that is live.
    All,
}

impl Match<'_> {
    fn read(self, depth: usize) -> u64 {
        match self {
            Match::Needed(marks) => marks.read[depth],
            Match::All => u64::MAX,
        }
    }

    fn precise(self, scalar: &Reg) -> bool {
        match self {
            Match::Needed(marks) => marks.precise.meets(scalar.from),
            Match::All => true,
        }
    }
}

/// A comparison under way.
struct Comparison<'a> {
    old: &'a State,
    new: &'a State,
    how: Match<'a>,
    ids: Ids,
    /// Sources of the new state's scalars that had to match.
    needed: Sources,
    /// Scalars of the old state with the sources of the new state's in their place.
    scalars: Vec<(Sources, Sources)>,
}

/// Whether all machines in state `new` at instruction `at` are among those of
/// the proven checkpoint `old` in what its `marks` say; then the sources of
/// the scalars of `new` that this rests on.
pub(super) fn covers(
    cfg: &Cfg,
    at: usize,
    old: &State,
    marks: &Marks,
    new: &State,
) -> Option<Sources> {
    compare(cfg, at, old, Match::Needed(marks), new).map(|work| work.needed)
}

/// Whether all machines in state `new` at instruction `at` are among those of
/// `old` in all that is live; then the scalars of `old` with the sources of
/// those in `new`.
pub(super) fn within(
    cfg: &Cfg,
    at: usize,
    old: &State,
    new: &State,
) -> Option<Vec<(Sources, Sources)>> {
    compare(cfg, at, old, Match::All, new).map(|work| work.scalars)
}

/// Whether two states stand for the same machines, as far as anything from
/// here on can tell.
pub(super) fn same(cfg: &Cfg, at: usize, old: &State, new: &State) -> bool {
    compare(cfg, at, old, Match::All, new).is_some()
        && compare(cfg, at, new, Match::All, old).is_some()
}

fn compare<'a>(
    cfg: &Cfg,
    at: usize,
    old: &'a State,
    how: Match<'a>,
    new: &'a State,
) -> Option<Comparison<'a>> {
    if old.frames.len() != new.frames.len() || old.refs.len() != new.refs.len() {
        return None;
    }
    let mut work = Comparison {
        old,
        new,
        how,
        ids: Ids::default(),
        needed: Sources::NONE,
        scalars: Vec::new(),
    };
    let mut pairs = old.refs.iter().zip(&new.refs);
    if !pairs.all(|(o, n)| o.kind == n.kind && work.ids.pointer(o.id, n.id)) {
        return None;
    }
    let same_lock = match (old.lock, new.lock) {
        (None, None) => true,
        (Some(o), Some(n)) => o.map == n.map && work.ids.pointer(o.value, n.value),
        _ => false,
    };
    if !same_lock {
        return None;
    }
    let last = old.frames.len() - 1;
    for (depth, (o, n)) in old.frames.iter().zip(&new.frames).enumerate() {
        // More turns may be left than there were: they were not walked.
        let turns = |frame: &Frame| frame.calls.map_or(0, |(_, calls)| calls.turns);
        if o.call_site != n.call_site || o.subprogram != n.subprogram || turns(o) > turns(n) {
            return None;
        }
        let live = if depth == last {
            cfg.live[at]
        } else {
            let next = &old.frames[depth + 1];
            // Where the next frame returns to: a callback to the helper, whose
            // arguments are still to be looked at.
            match next.callback {
                Some(_) => cfg.live[next.call_site],
                None => cfg.live[next.call_site + 1] & CALLEE_SAVED,
            }
        };
        if !work.frame(live, how.read(depth), o, n) {
            return None;
        }
    }
    Some(work)
}

impl Comparison<'_> {
    fn frame(&mut self, live: u16, read: u64, old: &Frame, new: &Frame) -> bool {
        for number in 0..old.regs.len() {
            if live & (1 << number) != 0 && !self.reg(&old.regs[number], &new.regs[number]) {
                return false;
            }
        }
        // Slots that the known state never touched stand for anything.
        old.stack.iter().enumerate().all(|(index, slot)| {
            let other = new.stack.get(index).unwrap_or(&Slot::MISC);
            read & (1 << index) == 0 || self.slot(slot, other)
        })
    }

    fn reg(&mut self, old: &Reg, new: &Reg) -> bool {
        match old.kind {
            Kind::NotInit => true,
            Kind::Scalar if new.kind != Kind::Scalar => false,
            Kind::Scalar if !self.how.precise(old) => true,
            Kind::Scalar => {
                self.needed = self.needed.and(new.from);
                if matches!(self.how, Match::All) {
                    self.scalars.push((old.from, new.from));
                }
                old.val.includes(&new.val) && self.ids.scalar(old, new)
            }
            Kind::Packet { .. } => packet::covers(old, new) && self.ids.pointer(old.id, new.id),
            kind => {
                kind == new.kind
                    && old.val.includes(&new.val)
                    && self.ids.pointer(old.id, new.id)
                    && self.ids.pointer(old.owner, new.owner)
                    && self.lives_as_long(old.owner, new.owner)
            }
        }
    }

    /// Whether what ends the slices of a dynptr of the old state ends those of
    /// one of the new state, too. Nothing has to read a dynptr to end it.
    fn lives_as_long(&mut self, old: u32, new: u32) -> bool {
        if old == 0 {
            return true;
        }
        match (dynptr(self.old, old), dynptr(self.new, new)) {
            (None, None) => true,
            (Some(o), Some(n)) => o.0 == n.0 && self.ids.pointer(o.1, n.1),
            _ => false,
        }
    }

    fn slot(&mut self, old: &Slot, new: &Slot) -> bool {
        if old.is_object() || new.is_object() {
            return old.bytes == new.bytes && self.reg(&old.reg, &new.reg);
        }
        let spilled = old.spilled();
        if spilled > 0 && !self.spill(old, new, spilled) {
            return false;
        }
        (spilled..8).all(|n| match (old.bytes[n], new.bytes[n]) {
            (Byte::Zero, Byte::Zero) => true,
            (Byte::Zero, Byte::Spill) => {
                self.needed = self.needed.and(new.reg.from);
                matches!(self.how, Match::Needed(_)) && new.reg.is_null()
            }
            (Byte::Zero, _) => false,
            _ => true,
        })
    }

    /// The first `spilled` bytes of `old`.
    fn spill(&mut self, old: &Slot, new: &Slot, spilled: usize) -> bool {
        if old.reg.kind == Kind::Scalar {
            let anything = old.reg.val.is_unknown() && old.reg.id == 0;
            if anything {
                return true;
            }
            if !self.how.precise(&old.reg) && !new.reg.kind.is_pointer() {
                return true;
            }
        }
        new.spilled() == spilled && self.reg(&old.reg, &new.reg)
    }
}

/// To what the dynptr with this id points, and its reference.
fn dynptr(state: &State, id: u32) -> Option<(DynPtrType, u32)> {
    let mut slots = state.frames.iter().flat_map(|frame| frame.stack.iter());
    slots.find_map(|slot| match slot.reg.kind {
        Kind::DynPtr { to, .. } if slot.reg.id == id => Some((to, slot.reg.owner)),
        _ => None,
    })
}
