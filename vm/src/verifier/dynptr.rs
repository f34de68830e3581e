//! Dynptrs: 16 bytes of stack that stand for memory whose size is known when
//! the program runs, and the slices of that memory. It knows no helper by its
//! number and no memory behind a dynptr; which bytes a slice has, `mem` checks.

use super::Fail;
use super::argument::Call;
use super::ctx;
use super::state::{Byte, DynPtrType, Frame, Kind, Ref, RefKind, Reg, SLOT, SLOTS};
use super::walk::Walk;

/// Slots of a dynptr (kernel: `BPF_DYNPTR_NR_SLOTS`).
const DYNPTR_SLOTS: usize = 2;

/// An initialised dynptr, as a call sees it.
#[derive(Clone, Copy)]
pub(super) struct DynPtr {
    pub(super) to: DynPtrType,
    /// Slices belong to this.
    pub(super) id: u32,
    /// The reference it stands for; 0 for local memory.
    pub(super) reference: u32,
}

impl DynPtrType {
    /// As messages name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            DynPtrType::Local => "local",
            DynPtrType::Ringbuf => "ringbuf",
            DynPtrType::Skb => "skb",
            DynPtrType::Xdp => "xdp",
        }
    }
}

/// Where an object of `slots` stack slots begins: the slot with the lowest
/// address, which has the highest index (kernel: `stack_slot_obj_get_spi`).
pub(super) fn object_slot(reg: &Reg, what: &str, slots: usize) -> Result<usize, Fail> {
    let Some(off) = reg.val.as_const().map(|off| off as i64) else {
        return Err(Fail::einval(format!(
            "{what} has to be at a constant offset"
        )));
    };
    let slot = i64::from(SLOT);
    let index = (-off - 1).div_euclid(slot);
    let fits = usize::try_from(index).is_ok_and(|index| index + 1 >= slots);
    if off % slot != 0 || !fits {
        let text = format!("cannot pass in {what} at an offset={off}");
        return Err(Fail::einval(text));
    }
    Ok(index as usize)
}

/// The dynptr whose first slot is `index`, if there is one.
fn dynptr_at(frame: &Frame, index: usize) -> Option<DynPtr> {
    let slot = frame.stack.get(index)?;
    let Kind::DynPtr { to, first: true } = slot.reg.kind else {
        return None;
    };
    (slot.bytes[0] == Byte::DynPtr).then_some(DynPtr {
        to,
        id: slot.reg.id,
        reference: slot.reg.owner,
    })
}

impl Walk<'_> {
    /// The path depends on what the `slots` slots down from `index` hold;
    /// those outside the frame hold nothing.
    pub(super) fn mark_object(&mut self, frame: u8, index: usize, slots: usize) {
        let parts = (index + 1 - slots..=index).filter(|&part| part < SLOTS);
        let bits = parts.fold(0, |bits, part| bits | 1 << part);
        self.mark_read(frame.into(), bits);
    }

    /// The dynptr in a register; `wanted` if only one type will do.
    pub(super) fn dynptr_argument(
        &mut self,
        number: u8,
        wanted: Option<DynPtrType>,
    ) -> Result<DynPtr, Fail> {
        let reg = self.read(number)?;
        let argument = number - 1;
        let missing = |reason: Option<Fail>| {
            let words = format!("Expected an initialized dynptr as arg #{argument}");
            Err(match reason {
                Some(fail) => Fail::einval(format!("{}\n{words}", fail.text)),
                None => Fail::einval(words),
            }
            .hint("make it with bpf_dynptr_from_mem or bpf_ringbuf_reserve_dynptr first"))
        };
        let found = match reg.kind {
            Kind::ConstDynPtr => {
                ctx::unmodified(number, &reg)?;
                DynPtr {
                    to: DynPtrType::Local,
                    id: reg.id,
                    reference: 0,
                }
            }
            Kind::Stack { frame } => {
                let index = match object_slot(&reg, "dynptr", DYNPTR_SLOTS) {
                    Ok(index) => index,
                    Err(fail) => return missing(Some(fail)),
                };
                self.mark_object(frame, index, DYNPTR_SLOTS);
                match dynptr_at(&self.state.frames[usize::from(frame)], index) {
                    Some(found) => found,
                    None => return missing(None),
                }
            }
            _ => {
                return Err(Fail::einval(format!(
                    "arg#{argument} expected pointer to stack or const struct bpf_dynptr"
                )));
            }
        };
        match wanted {
            Some(to) if to != found.to => Err(Fail::einval(format!(
                "Expected a dynptr of type {} as arg #{argument}",
                to.name()
            ))),
            _ => Ok(found),
        }
    }

    /// Makes the stack that a register points to a dynptr. `reference` is
    /// that of the dynptr it copies; without it, a reference is taken where
    /// the type needs one.
    pub(super) fn make_dynptr(
        &mut self,
        number: u8,
        to: DynPtrType,
        reference: Option<u32>,
    ) -> Result<(), Fail> {
        let reg = self.read(number)?;
        let Kind::Stack { frame } = reg.kind else {
            return Err(match reg.kind {
                Kind::ConstDynPtr => Fail::einval("Dynptr has to be an uninitialized dynptr"),
                _ => Fail::einval(format!(
                    "arg#{} expected pointer to stack or const struct bpf_dynptr",
                    number - 1
                )),
            });
        };
        let index = object_slot(&reg, "dynptr", DYNPTR_SLOTS).map_err(|fail| {
            let text = format!("{}\nDynptr has to be an uninitialized dynptr", fail.text);
            Fail::einval(text)
        })?;
        for off in [0, SLOT.into()] {
            self.write_stack(number, &reg, frame, off, SLOT, Reg::UNKNOWN, None)?;
        }
        let id = self.fresh_id();
        let owner = match (reference, to) {
            (Some(reference), _) => reference,
            (None, DynPtrType::Ringbuf) => self.take_reference(RefKind::DynPtr),
            (None, _) => 0,
        };
        let frame = &mut self.state.frames[usize::from(frame)];
        for (index, first) in [(index, true), (index - 1, false)] {
            let slot = frame.slot(index);
            slot.bytes = [Byte::DynPtr; SLOT as usize];
            slot.reg = Reg {
                owner,
                ..Reg::pointer(Kind::DynPtr { to, first }, 0, id)
            };
        }
        Ok(())
    }

    /// The reference of the dynptr that a call takes over.
    pub(super) fn released_dynptr(&mut self, number: u8) -> Result<u32, Fail> {
        let reg = self.read(number)?;
        let unowned = || Fail::einval(format!("arg {number} is an unacquired reference"));
        match reg.kind {
            Kind::Stack { frame } => {
                let index = object_slot(&reg, "dynptr", DYNPTR_SLOTS).map_err(|fail| {
                    let text = format!("{}\n{}", fail.text, unowned().text);
                    Fail::einval(text)
                })?;
                self.mark_object(frame, index, DYNPTR_SLOTS);
                let slot = self.state.frames[usize::from(frame)].stack.get(index);
                let owned = slot.is_some_and(|slot| {
                    matches!(slot.reg.kind, Kind::DynPtr { .. }) && slot.reg.owner != 0
                });
                if !owned {
                    return Err(unowned());
                }
            }
            Kind::ConstDynPtr => {
                return Err(Fail::einval("cannot release unowned const bpf_dynptr"));
            }
            _ => return Err(unowned()),
        }
        let found = self.dynptr_argument(number, Some(DynPtrType::Ringbuf))?;
        Ok(found.reference)
    }

    /// Ends all dynptrs of a reference, their slices, and the reference.
    pub(super) fn release_dynptrs(&mut self, reference: u32) -> bool {
        let mut ended = Vec::new();
        for frame in &mut self.state.frames {
            for slot in frame.stack.iter_mut() {
                if slot.bytes[0] == Byte::DynPtr && slot.reg.owner == reference {
                    ended.push(slot.reg.id);
                    slot.scrub();
                }
            }
        }
        for id in ended {
            self.state.disown(id);
        }
        self.state.release(reference)
    }

    /// What is left of a dynptr or iterator when one of its slots is written
    /// to (kernel: `destroy_if_dynptr_stack_slot`). The reference of an
    /// iterator stays: nothing can give it back any more.
    pub(super) fn break_object(&mut self, frame: usize, index: usize) -> Result<(), Fail> {
        let Some(slot) = self.state.frames[frame].stack.get_mut(index) else {
            return Ok(());
        };
        if !slot.is_object() {
            return Ok(());
        }
        let Kind::DynPtr { first, .. } = slot.reg.kind else {
            slot.scrub();
            return Ok(());
        };
        let (id, reference) = (slot.reg.id, slot.reg.owner);
        if reference != 0 {
            return Err(Fail::einval("cannot overwrite referenced dynptr")
                .hint("submit or discard it before its stack is used for something else"));
        }
        slot.scrub();
        let other = if first { index - 1 } else { index + 1 };
        self.state.frames[frame].slot(other).scrub();
        self.state.disown(id);
        Ok(())
    }

    /// A frame goes: nothing may outlive it through dynptrs of records and
    /// packets that were in it. Slices of local memory stay good.
    pub(super) fn drop_dynptrs(&mut self, frame: &Frame) {
        for slot in frame.stack.iter() {
            let local = matches!(
                slot.reg.kind,
                Kind::DynPtr {
                    to: DynPtrType::Local,
                    ..
                }
            );
            if slot.bytes[0] == Byte::DynPtr && !local {
                self.state.disown(slot.reg.id);
            }
        }
    }

    /// The packet was moved or cut: slices of it are worth nothing.
    pub(super) fn clear_packet_slices(&mut self) {
        let slots = self
            .state
            .frames
            .iter()
            .flat_map(|frame| frame.stack.iter());
        let of_packet = slots.filter(|slot| {
            let to = match slot.reg.kind {
                Kind::DynPtr { to, .. } => to,
                _ => return false,
            };
            matches!(to, DynPtrType::Skb | DynPtrType::Xdp)
        });
        let ids: Vec<u32> = of_packet.map(|slot| slot.reg.id).collect();
        for id in ids {
            self.state.disown(id);
        }
    }

    /// Notes that the program holds something from the instruction in hand on.
    pub(super) fn take_reference(&mut self, kind: RefKind) -> u32 {
        let id = self.fresh_id();
        let insn = self.at;
        self.state.refs.push(Ref { id, insn, kind });
        id
    }

    /// The slice that a call returns: `size` bytes of its dynptr, or NULL.
    pub(super) fn slice(&mut self, call: &Call, size: u32, read_only: bool) -> Result<Reg, Fail> {
        let of = call
            .dynptr
            .ok_or_else(|| Fail::einval("a slice of no dynptr"))?;
        let kind = Kind::Mem {
            size,
            read_only,
            or_null: true,
        };
        Ok(Reg {
            owner: of.id,
            ..Reg::pointer(kind, 0, self.fresh_id())
        })
    }
}
