//! Whether one abstract state stands for all machines that another stands
//! for: then what was proven for the first holds for the second. It knows
//! nothing of how states come about.

use super::cfg::Cfg;
use super::state::{Byte, Frame, Kind, Reg, Slot, State};

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

/// Whether all machines in state `new` at instruction `at` are among those of
/// `old`, as far as anything from here on can tell.
pub(super) fn covers(cfg: &Cfg, at: usize, old: &State, new: &State) -> bool {
    if old.frames.len() != new.frames.len() || old.refs.len() != new.refs.len() {
        return false;
    }
    let mut ids = Ids::default();
    let pairs = old.refs.iter().zip(&new.refs);
    if !pairs.clone().all(|(o, n)| ids.pointer(o.0, n.0)) {
        return false;
    }
    let last = old.frames.len() - 1;
    for (depth, (o, n)) in old.frames.iter().zip(&new.frames).enumerate() {
        if o.call_site != n.call_site || o.subprogram != n.subprogram {
            return false;
        }
        let live = if depth == last {
            cfg.live[at]
        } else {
            // Where the next frame returns to.
            let resume = old.frames[depth + 1].call_site + 1;
            cfg.live[resume] & CALLEE_SAVED
        };
        if !frame_covers(live, o, n, &mut ids) {
            return false;
        }
    }
    true
}

fn frame_covers(live: u16, old: &Frame, new: &Frame, ids: &mut Ids) -> bool {
    for number in 0..old.regs.len() {
        if live & (1 << number) != 0 && !reg_covers(&old.regs[number], &new.regs[number], ids) {
            return false;
        }
    }
    // Slots that the known state never touched stand for anything.
    old.stack.iter().enumerate().all(|(index, slot)| {
        let other = new.stack.get(index).unwrap_or(&Slot::MISC);
        slot_covers(slot, other, ids)
    })
}

fn reg_covers(old: &Reg, new: &Reg, ids: &mut Ids) -> bool {
    match old.kind {
        Kind::NotInit => true,
        Kind::Scalar => {
            new.kind == Kind::Scalar && old.val.includes(&new.val) && ids.scalar(old, new)
        }
        kind => kind == new.kind && old.val.includes(&new.val) && ids.pointer(old.id, new.id),
    }
}

fn slot_covers(old: &Slot, new: &Slot, ids: &mut Ids) -> bool {
    let spilled = old.spilled();
    if spilled > 0 {
        if old.reg.kind == Kind::Scalar && old.reg.val.is_unknown() && old.reg.id == 0 {
            // As good as bytes that hold anything.
        } else if new.spilled() != spilled || !reg_covers(&old.reg, &new.reg, ids) {
            return false;
        }
    }
    (spilled..8).all(|n| match (old.bytes[n], new.bytes[n]) {
        (Byte::Zero, Byte::Zero) => true,
        (Byte::Zero, Byte::Spill) => new.reg.is_null(),
        (Byte::Zero, Byte::Misc) => false,
        _ => true,
    })
}
