//! The stack as memory: spilled registers survive, other bytes are zero or
//! anything. It knows no other memory.

use uapi::Errno;
use uapi::insn::MAX_BPF_STACK;

use super::Fail;
use super::mem::{Access, is_aligned, narrow};
use super::range::Scalar;
use super::state::{Byte, Kind, Reg, SLOT, Slot};
use super::walk::Walk;

/// First byte and length of an access, counted from the frame's lowest byte.
struct Span {
    start: usize,
    end: usize,
    /// Whether it is one place, not one of several.
    fixed: bool,
}

impl Span {
    /// The slots it touches.
    fn slots(&self) -> u64 {
        if self.start == self.end {
            return 0;
        }
        let (high, low) = (place(self.start).0, place(self.end - 1).0);
        (u64::MAX >> (63 - high)) & (u64::MAX << low)
    }
}

/// Slot number and byte in it of a byte counted from the frame's lowest.
fn place(byte: usize) -> (usize, usize) {
    let slot = SLOT as usize;
    ((MAX_BPF_STACK as usize - 1 - byte) / slot, byte % slot)
}

impl Walk<'_> {
    /// Where `size` bytes at `reg + off` may lie; all of it is inside the frame.
    fn stack_span(
        &mut self,
        number: u8,
        reg: &Reg,
        frame: u8,
        off: i64,
        size: u32,
        access: Access,
    ) -> Result<Span, Fail> {
        let fixed = reg.val.as_const().is_some();
        let min = i128::from(reg.val.smin) + i128::from(off);
        let max = i128::from(reg.val.smax) + i128::from(off);
        let end = max + i128::from(size);
        // A span of no bytes must start inside, too.
        if min < -i128::from(MAX_BPF_STACK) || end > 0 || max >= 0 {
            let what = access.name();
            let text = if fixed {
                format!("invalid {what} to stack R{number} off={min} size={size}")
            } else {
                format!("invalid variable-offset {what} to stack R{number} off={min} size={size}")
            };
            let text = if access == Access::Read {
                text.replace("read to", "read from")
            } else {
                text
            };
            // As the kernel: what starts inside and ends outside is invalid.
            let starts_inside = min >= -i128::from(MAX_BPF_STACK) && min < 0;
            let errno = if starts_inside {
                Errno::EINVAL
            } else {
                Errno::EACCES
            };
            return Err(Fail::new(errno, text).hint("a frame has 512 bytes below r10"));
        }
        let subprogram = self.state.frames[usize::from(frame)].subprogram;
        let depth = &mut self.frame_bytes[subprogram];
        *depth = (*depth).max((-min) as u32);
        let from_bottom = |n: i128| (n + i128::from(MAX_BPF_STACK)) as usize;
        Ok(Span {
            start: from_bottom(min),
            end: from_bottom(end),
            fixed,
        })
    }

    pub(super) fn read_stack(
        &mut self,
        number: u8,
        reg: &Reg,
        frame: u8,
        off: i64,
        size: u32,
    ) -> Result<Reg, Fail> {
        check_alignment(reg, off, size)?;
        let span = self.stack_span(number, reg, frame, off, size, Access::Read)?;
        self.mark_read(frame.into(), span.slots());
        let any = Reg::scalar(Scalar::unknown_bytes(size));
        let from = if span.fixed {
            String::new()
        } else {
            format!("R{number} ")
        };
        self.check_no_objects(&from, frame, &span, size)?;
        if !span.fixed {
            return Ok(any);
        }
        let (index, first) = place(span.start);
        let slot = *self.state.frames[usize::from(frame)].slot(index);
        let bytes = &slot.bytes[first..first + size as usize];
        let spilled = slot.spilled();
        if slot.reg.kind.is_pointer() && bytes.contains(&Byte::Spill) {
            if size == SLOT {
                return Ok(slot.reg);
            }
            return Err(Fail::eacces("invalid size of register fill")
                .hint("load a saved pointer with all its 8 bytes"));
        }
        if bytes.iter().all(|&b| b == Byte::Spill) {
            if first == 0 && size as usize == spilled {
                return Ok(slot.reg);
            }
            if let Some(n) = slot.reg.val.as_const() {
                let part = narrow(&Scalar::known(n >> (8 * first)), size);
                return Ok(Reg::derived(part, slot.reg.from));
            }
            if first == 0 {
                let part = narrow(&slot.reg.val, size);
                // A number that fits is read whole and stays linked.
                return Ok(if part == slot.reg.val {
                    slot.reg
                } else {
                    Reg::derived(part, slot.reg.from)
                });
            }
            return Ok(any);
        }
        let zero = bytes.iter().all(|&b| match b {
            Byte::Zero => true,
            Byte::Spill => slot.reg.is_null(),
            Byte::Misc | Byte::DynPtr | Byte::Iter => false,
        });
        Ok(if zero {
            // Bytes that are zero by themselves were paid for when written.
            Reg::derived(Scalar::known(0), slot.reg.from)
        } else {
            any
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one store")]
    pub(super) fn write_stack(
        &mut self,
        number: u8,
        reg: &Reg,
        frame: u8,
        off: i64,
        size: u32,
        mut value: Reg,
        source: Option<u8>,
    ) -> Result<(), Fail> {
        check_alignment(reg, off, size)?;
        let span = self.stack_span(number, reg, frame, off, size, Access::Write)?;
        let depth = self.state.frames.len() - 1;
        if matches!(value.kind, Kind::Stack { .. }) && usize::from(frame) != depth {
            // A pointer to a frame must not outlive it in an older one.
            let text = "cannot spill pointers to stack into stack frame of the caller";
            return Err(Fail::einval(text));
        }
        for byte in span.start..span.end {
            self.break_object(usize::from(frame), place(byte).0)?;
        }
        if !span.fixed {
            self.forget_stack(frame, span.start, span.end);
            return Ok(());
        }
        if value.kind.is_pointer() && size != SLOT {
            return Err(Fail::eacces("invalid size of register spill")
                .hint("save a pointer with all its 8 bytes"));
        }
        if let Some(source) = source.filter(|_| value.kind == Kind::Scalar) {
            value = self.link(source);
        }
        // As the kernel, which keeps no such pointers in memory: what they
        // point to ends before an older frame does.
        if value.kind == Kind::ConstDynPtr {
            value = Reg::UNKNOWN;
        }
        let (index, first) = place(span.start);
        let zero = first != 0 && narrow(&value.val, size).as_const() == Some(0);
        if zero {
            self.need_precise(value.from);
        }
        let holder = &mut self.state.frames[usize::from(frame)];
        let slot = holder.slot(index);
        let last = first + size as usize;
        if first == 0 {
            for (n, byte) in slot.bytes.iter_mut().enumerate() {
                if n < last {
                    *byte = Byte::Spill;
                } else if *byte == Byte::Spill {
                    *byte = Byte::Misc;
                }
            }
            let whole = narrow(&value.val, size);
            if value.kind == Kind::Scalar && whole != value.val {
                value = Reg::derived(whole, value.from);
            }
            slot.reg = value;
        } else {
            slot.scrub();
            let byte = if zero { Byte::Zero } else { Byte::Misc };
            slot.bytes[first..last].fill(byte);
        }
        let mut rest = slot.bytes[..first].iter().chain(&slot.bytes[last..]);
        if rest.all(|&b| b == Byte::Misc) {
            holder.written |= 1 << index;
        }
        Ok(())
    }

    /// Bytes that now hold anything.
    fn forget_stack(&mut self, frame: u8, start: usize, end: usize) {
        let frame = &mut self.state.frames[usize::from(frame)];
        for byte in start..end {
            let (index, at) = place(byte);
            // Slots beyond those that exist hold anything already.
            if let Some(slot) = frame.stack.get_mut(index) {
                slot.scrub();
                slot.bytes[at] = Byte::Misc;
                if *slot == Slot::MISC {
                    frame.written |= 1 << index;
                }
            }
        }
    }

    /// Stack memory that a helper reads or writes.
    pub(super) fn helper_stack(
        &mut self,
        number: u8,
        reg: &Reg,
        frame: u8,
        size: u32,
        access: Access,
    ) -> Result<(), Fail> {
        let span = self.stack_span(number, reg, frame, 0, size, access)?;
        if access == Access::Read {
            self.mark_read(frame.into(), span.slots());
            return self.check_no_objects(&format!("R{number} "), frame, &span, size);
        }
        let stack = &self.state.frames[usize::from(frame)].stack;
        for byte in span.start..span.end {
            let (index, at) = place(byte);
            if stack
                .get(index)
                .is_some_and(|s| s.bytes[at] == Byte::DynPtr)
            {
                let off = byte as i64 - i64::from(MAX_BPF_STACK);
                let text = format!("potential write to dynptr at off={off} disallowed");
                return Err(Fail::eacces(text));
            }
        }
        self.forget_stack(frame, span.start, span.end);
        Ok(())
    }

    /// The number of 4 bytes that a helper reads there as a key, if it is
    /// known (kernel: `get_constant_map_key`).
    pub(super) fn constant_key(&self, reg: &Reg, size: u32) -> Option<Reg> {
        let Kind::Stack { frame } = reg.kind else {
            return None;
        };
        let start = reg.val.as_const()? as i64 + i64::from(MAX_BPF_STACK);
        let (index, first) = place(usize::try_from(start).ok()?);
        let slot = self.state.frames[usize::from(frame)].stack.get(index)?;
        let bytes = slot.bytes.get(first..first + size as usize)?;
        if size != 4 {
            return None;
        }
        if bytes.iter().all(|&b| b == Byte::Zero) {
            return Some(Reg::scalar(Scalar::known(0)));
        }
        let whole = first == 0 && slot.spilled() == size as usize;
        (whole && slot.reg.kind == Kind::Scalar).then_some(slot.reg)
    }

    /// Nothing of the span is part of a dynptr or iterator, which only their
    /// own functions may read. `from` names the register where the kernel does.
    fn check_no_objects(&self, from: &str, frame: u8, span: &Span, size: u32) -> Result<(), Fail> {
        let stack = &self.state.frames[usize::from(frame)].stack;
        let is_object = |&byte: &usize| {
            let slot = stack.get(place(byte).0);
            slot.is_some_and(|slot| slot.is_object())
        };
        let Some(byte) = (span.start..span.end).find(is_object) else {
            return Ok(());
        };
        let off = span.start as i64 - i64::from(MAX_BPF_STACK);
        let at = byte - span.start;
        let text = format!("invalid read from stack {from}off {off}+{at} size {size}");
        Err(Fail::eacces(text).hint("dynptrs and iterators are read by their own functions only"))
    }
}

fn check_alignment(reg: &Reg, off: i64, size: u32) -> Result<(), Fail> {
    if is_aligned(reg, off, size) {
        return Ok(());
    }
    let text = format!("misaligned stack access off {off} size {size}");
    Err(Fail::eacces(text).hint("stack accesses must be aligned to their size"))
}
