//! Machine code as it grows, with jumps to program slots. Knows encodings of
//! jumps and needless prefixes, no eBPF.

use dynasmrt::{DynasmApi, SimpleAssembler};

use crate::link::LinkError;

/// Condition codes of `jcc`.
#[derive(Clone, Copy)]
pub(super) struct Cc(pub u8);

/// Below, above and so on compare as unsigned numbers; less, greater as signed.
impl Cc {
    pub const B: Cc = Cc(0x2);
    pub const AE: Cc = Cc(0x3);
    pub const E: Cc = Cc(0x4);
    pub const NE: Cc = Cc(0x5);
    pub const BE: Cc = Cc(0x6);
    pub const A: Cc = Cc(0x7);
    pub const L: Cc = Cc(0xc);
    pub const GE: Cc = Cc(0xd);
    pub const LE: Cc = Cc(0xe);
    pub const G: Cc = Cc(0xf);
}

/// Something in the code that can be jumped to, called or pointed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The code of a program slot.
    Slot(usize),
    /// The first byte of the nth subprogram, its prologue.
    Subprogram(usize),
    /// The native entry of the nth callback.
    Callback(usize),
}

/// Offsets of all places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub slots: Vec<usize>,
    pub subprograms: Vec<usize>,
    pub callbacks: Vec<usize>,
}

impl Places {
    fn offset(&self, place: Place) -> usize {
        match place {
            Place::Slot(n) => self.slots[n],
            Place::Subprogram(n) => self.subprograms[n],
            Place::Callback(n) => self.callbacks[n],
        }
    }
}

/// A forward jump within the code of one instruction.
#[must_use = "a jump leads nowhere until it is landed"]
pub(super) struct Hop(usize);

/// Code and the references in it that are not yet resolved.
pub(super) struct Buffer {
    pub asm: SimpleAssembler,
    /// Where places are.
    places: Places,
    /// Where they were in an earlier pass, which made longer code.
    estimate: Option<Places>,
    /// Position of a displacement, its bytes, and what it leads to.
    fixups: Vec<(usize, usize, Place)>,
}

impl Buffer {
    /// An empty buffer; jumps become short where the places of an earlier
    /// pass over the same program prove that they can.
    pub fn new(estimate: Option<Places>) -> Buffer {
        Buffer {
            asm: SimpleAssembler::new(),
            places: Places::default(),
            estimate,
            fixups: Vec::new(),
        }
    }

    /// Bytes so far.
    pub fn offset(&self) -> usize {
        self.asm.ops.len()
    }

    /// The next slot begins here; slots come in order.
    pub fn begin_slot(&mut self) {
        self.places.slots.push(self.offset());
    }

    /// The next subprogram begins here.
    pub fn begin_subprogram(&mut self) {
        self.places.subprograms.push(self.offset());
    }

    /// The entry of the next callback begins here.
    pub fn begin_callback(&mut self) {
        self.places.callbacks.push(self.offset());
    }

    /// Removes a REX prefix without bits from the instruction that begins at
    /// `start`. Not for instructions with byte registers, whose meaning it
    /// changes.
    pub fn drop_empty_rex(&mut self, start: usize) {
        let is_prefix = |byte: &&u8| matches!(byte, 0x66 | 0xf0 | 0xf2 | 0xf3);
        let rex = start + self.asm.ops[start..].iter().take_while(is_prefix).count();
        if self.asm.ops.get(rex) == Some(&0x40) {
            self.asm.ops.remove(rex);
        }
    }

    /// Shortens the address of the instruction that was emitted last:
    /// register `base` and a displacement, then `tail` bytes of immediate.
    /// dynasm gives a base chosen at run time a SIB byte, which only rsp and
    /// r12 need, and keeps a displacement of zero, which only rbp and r13 need.
    pub fn shorten_address(&mut self, base: u8, displacement: &[u8], tail: usize) {
        let at = self.offset() - tail - displacement.len();
        let (modrm, sib) = (at - 2, at - 1);
        debug_assert_eq!(self.asm.ops[modrm] & 7, 4, "a SIB byte follows");
        debug_assert_eq!(&self.asm.ops[at..][..displacement.len()], displacement);
        if base & 7 == 4 {
            return;
        }
        self.asm.ops[modrm] = self.asm.ops[modrm] & 0xf8 | base & 7;
        let mut end = at;
        if displacement == [0] && base & 7 != 5 {
            self.asm.ops[modrm] &= 0x3f;
            end += 1;
        }
        self.asm.ops.drain(sib..end);
    }

    /// Turns an instruction `81 /n imm32` that was emitted last into
    /// `83 /n imm8`.
    pub fn shorten_immediate(&mut self, imm: i8) {
        let opcode = self.offset() - 6;
        debug_assert_eq!(self.asm.ops[opcode], 0x81, "only for this form");
        self.asm.ops[opcode] = 0x83;
        self.asm.ops[opcode + 2] = imm as u8;
        self.asm.ops.truncate(opcode + 3);
    }

    /// Whether a jump that ends the current slot's code reaches `slot` with
    /// a signed byte.
    fn is_near(&self, slot: usize) -> bool {
        if let Some(&behind) = self.places.slots.get(slot) {
            return self.offset() + 2 - behind <= 128;
        }
        // Ahead: code only shrinks between passes, so the distance of the
        // earlier pass is an upper bound.
        self.estimate.as_ref().is_some_and(|estimate| {
            let end = estimate.slots[self.places.slots.len()];
            estimate.slots[slot] - end <= 127
        })
    }

    /// `jmp slot`; ends the current slot's code.
    pub fn jump(&mut self, slot: usize) {
        if self.is_near(slot) {
            self.asm.push(0xeb);
            self.reference(1, Place::Slot(slot));
        } else {
            self.asm.push(0xe9);
            self.reference(4, Place::Slot(slot));
        }
    }

    /// `jcc slot`; ends the current slot's code.
    pub fn jump_if(&mut self, cc: Cc, slot: usize) {
        if self.is_near(slot) {
            self.asm.push(0x70 | cc.0);
            self.reference(1, Place::Slot(slot));
        } else {
            self.asm.push(0x0f);
            self.asm.push(0x80 | cc.0);
            self.reference(4, Place::Slot(slot));
        }
    }

    /// `call place`.
    pub fn call(&mut self, place: Place) {
        self.asm.push(0xe8);
        self.reference(4, place);
    }

    /// A displacement relative to its own end.
    fn reference(&mut self, bytes: usize, place: Place) {
        self.fixups.push((self.offset(), bytes, place));
        self.asm.ops.resize(self.offset() + bytes, 0);
    }

    /// `jcc` forward to where the hop is landed, at most 127 bytes on.
    pub fn hop_if(&mut self, cc: Cc) -> Hop {
        self.asm.push(0x70 | cc.0);
        self.asm.push(0);
        Hop(self.offset())
    }

    /// `jmp` forward to where the hop is landed, at most 127 bytes on.
    pub fn hop(&mut self) -> Hop {
        self.asm.push(0xeb);
        self.asm.push(0);
        Hop(self.offset())
    }

    /// A hop leads here.
    pub fn land(&mut self, Hop(from): Hop) {
        let distance = self.offset() - from;
        debug_assert!(distance <= 127, "one instruction's code is short");
        self.asm.ops[from - 1] = distance as u8;
    }

    /// `jcc` back to `to`, at most 128 bytes.
    pub fn hop_back_if(&mut self, cc: Cc, to: usize) {
        let distance = self.offset() + 2 - to;
        debug_assert!(distance <= 128, "one instruction's code is short");
        self.asm.push(0x70 | cc.0);
        self.asm.push((distance as u8).wrapping_neg());
    }

    /// Makes the 32-bit displacement that was emitted last lead to `place`.
    pub fn retarget_last(&mut self, place: Place) {
        self.fixups.push((self.offset() - 4, 4, place));
    }

    /// Resolves all references; the code and where its places are.
    ///
    /// # Errors
    /// A distance does not fit.
    pub fn finish(mut self) -> Result<(Vec<u8>, Places), LinkError> {
        for (at, bytes, place) in self.fixups {
            let distance = self.places.offset(place) as i64 - (at + bytes) as i64;
            let field = &mut self.asm.ops[at..at + bytes];
            if bytes == 1 {
                let distance = i8::try_from(distance).map_err(|_| LinkError::TooLarge)?;
                field.copy_from_slice(&distance.to_le_bytes());
            } else {
                let distance = i32::try_from(distance).map_err(|_| LinkError::TooLarge)?;
                field.copy_from_slice(&distance.to_le_bytes());
            }
        }
        Ok((self.asm.ops, self.places))
    }
}
