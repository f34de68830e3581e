//! Open-coded iterators: stack slots that `new` fills, `next` reads and
//! `destroy` empties (kernel: `process_iter_arg`, `process_iter_next_call`).
//! It knows no loop; that states meet again at `next` is `walk`'s and
//! `prune`'s to see.

use super::Fail;
use super::dynptr::object_slot;
use super::range::Scalar;
use super::state::{Byte, Kind, RefKind, Reg, SLOT};
use super::walk::Walk;
use crate::helper::kfunc::{IterStep, IterType};

/// An iterator on the stack.
#[derive(Clone, Copy)]
pub(super) struct Iter {
    frame: u8,
    /// Its first slot.
    slot: usize,
    pub(super) reference: u32,
}

impl Walk<'_> {
    /// An iterator argument. `None` when it begins or ends here.
    pub(super) fn iter_argument(
        &mut self,
        number: u8,
        of: IterType,
        step: IterStep,
    ) -> Result<Option<Iter>, Fail> {
        let reg = self.read(number)?;
        let argument = number - 1;
        let Kind::Stack { frame } = reg.kind else {
            let text = format!("arg#{argument} expected pointer to an iterator on stack");
            return Err(Fail::einval(text));
        };
        let state = if step == IterStep::New {
            "uninitialized"
        } else {
            "an initialized"
        };
        let words = format!("expected {state} iter_{} as arg #{argument}", of.name());
        let slot = object_slot(&reg, "iter", of.slots())
            .map_err(|fail| Fail::einval(format!("{}\n{words}", fail.text)))?;
        if step == IterStep::New {
            if self.iter_slots(frame, slot, of).any(|b| b.is_some()) {
                return Err(Fail::einval(words).hint("destroy an iterator before making another"));
            }
            return self.new_iter(number, &reg, frame, slot, of).map(|()| None);
        }
        self.mark_object(frame, slot, of.slots());
        let whole = self.iter_slots(frame, slot, of).all(|b| b == Some(of));
        let frames = &mut self.state.frames;
        let reference = match frames[usize::from(frame)].stack.get(slot) {
            Some(first) if whole => first.reg.owner,
            _ => 0,
        };
        if reference == 0 {
            return Err(Fail::einval(words).hint("make it with its new function first"));
        }
        let iter = Iter {
            frame,
            slot,
            reference,
        };
        if step == IterStep::Next {
            return Ok(Some(iter));
        }
        for part in 0..of.slots() {
            frames[usize::from(frame)].slot(slot - part).scrub();
        }
        self.state.release(reference);
        Ok(None)
    }

    /// Of what type of iterator each of `of`'s slots is a part.
    fn iter_slots(
        &self,
        frame: u8,
        slot: usize,
        of: IterType,
    ) -> impl Iterator<Item = Option<IterType>> {
        let stack = &self.state.frames[usize::from(frame)].stack;
        (0..of.slots()).map(move |part| match stack.get(slot - part) {
            Some(found) if found.bytes[0] == Byte::Iter => match found.reg.kind {
                Kind::Iter { of, .. } => Some(of),
                _ => None,
            },
            _ => None,
        })
    }

    fn new_iter(
        &mut self,
        number: u8,
        reg: &Reg,
        frame: u8,
        slot: usize,
        of: IterType,
    ) -> Result<(), Fail> {
        for part in 0..of.slots() {
            let off = part as i64 * i64::from(SLOT);
            self.write_stack(number, reg, frame, off, SLOT, Reg::UNKNOWN, None)?;
        }
        let reference = self.take_reference(RefKind::Iter);
        for part in 0..of.slots() {
            let found = self.state.frames[usize::from(frame)].slot(slot - part);
            found.bytes = [Byte::Iter; SLOT as usize];
            let kind = Kind::Iter { of, drained: false };
            found.reg = Reg {
                owner: if part == 0 { reference } else { 0 },
                ..Reg::pointer(kind, 0, 0)
            };
        }
        Ok(())
    }

    /// After `next`: the path in hand found the end, NULL in r0; another one
    /// goes on with `element` in r0. Once at its end, an iterator stays there.
    pub(super) fn iter_next(&mut self, iter: Iter, element: Reg) -> Result<(), Fail> {
        if !self.iter_register(iter).is_some_and(is_drained) {
            let mut other = self.state.clone();
            let frame = other.frames.len() - 1;
            other.frames[frame].regs[0] = Reg {
                kind: element.kind.not_null(),
                id: 0,
                ..element
            };
            let slot = other.frames[usize::from(iter.frame)].slot(iter.slot);
            slot.reg.delta += 1;
            self.widen(self.at, &mut other);
            self.push(self.at + 1, other)?;
        }
        let slot = self.state.frames[usize::from(iter.frame)].slot(iter.slot);
        if let Kind::Iter { drained, .. } = &mut slot.reg.kind {
            *drained = true;
        }
        self.state.set(0, Reg::scalar(Scalar::known(0)));
        Ok(())
    }

    fn iter_register(&self, iter: Iter) -> Option<&Reg> {
        let stack = &self.state.frames[usize::from(iter.frame)].stack;
        stack.get(iter.slot).map(|slot| &slot.reg)
    }
}

fn is_drained(reg: &Reg) -> bool {
    matches!(reg.kind, Kind::Iter { drained: true, .. })
}
