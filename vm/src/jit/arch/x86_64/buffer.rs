//! Machine code as it grows, with jumps to program slots and helpers. Knows
//! encodings of jumps, no eBPF.

use super::encode::Assembler;
use super::layout::{Layout, Span};
use crate::jit::{HelperCall, Optimisations};
use crate::link::LinkError;

/// Condition codes of `jcc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// The condition that holds when this one does not.
    pub fn inverted(self) -> Cc {
        Cc(self.0 ^ 1)
    }
}

/// Something in the code that can be jumped to, called or pointed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The first byte of the nth subprogram, its prologue.
    Subprogram(usize),
    /// The native entry of the nth callback.
    Callback(usize),
}

/// A forward jump within the code of one instruction, in which nothing is
/// laid out anew.
#[must_use = "a jump leads nowhere until it is landed"]
pub(super) struct Hop(usize);

/// Code, and the references in it that are not yet resolved.
pub(super) struct Buffer {
    pub asm: Assembler,
    slots: Vec<u32>,
    subprograms: Vec<u32>,
    callbacks: Vec<u32>,
    /// What may become shorter or longer, in order.
    spans: Vec<Span>,
    /// Position of a 32-bit displacement and what it leads to.
    references: Vec<(u32, Place)>,
    /// Calls of helpers by a displacement.
    calls: Vec<HelperCall>,
    short_jumps: bool,
}

/// Code bytes and the calls of helpers in them.
pub(super) struct Finished {
    pub bytes: Vec<u8>,
    pub calls: Vec<HelperCall>,
    /// Where subprogram 0 begins.
    pub start: usize,
}

impl Buffer {
    /// An empty buffer for a program of `slots` slots.
    pub fn new(slots: usize, optimisations: &Optimisations) -> Buffer {
        Buffer {
            asm: Assembler::new(optimisations.short_encodings, slots * 8 + 64),
            slots: Vec::with_capacity(slots),
            subprograms: Vec::new(),
            callbacks: Vec::new(),
            spans: Vec::new(),
            references: Vec::new(),
            calls: Vec::new(),
            short_jumps: optimisations.short_jumps,
        }
    }

    fn offset(&self) -> u32 {
        self.asm.offset() as u32
    }

    /// The next slot begins here; slots come in order.
    pub fn begin_slot(&mut self) {
        self.slots.push(self.offset());
    }

    /// The next subprogram begins here.
    pub fn begin_subprogram(&mut self) {
        self.subprograms.push(self.offset());
    }

    /// The entry of the next callback begins here.
    pub fn begin_callback(&mut self) {
        self.callbacks.push(self.offset());
    }

    /// What follows begins on a multiple of 2 to the power of `log`.
    pub fn align(&mut self, log: u8) {
        let at = self.offset();
        self.spans.push(Span::Align { at, log });
    }

    /// `jmp slot`.
    pub fn jump(&mut self, slot: usize) {
        self.jump_span(&[0xe9], 0xeb, slot);
    }

    /// `jcc slot`.
    pub fn jump_if(&mut self, cc: Cc, slot: usize) {
        self.jump_span(&[0x0f, 0x80 | cc.0], 0x70 | cc.0, slot);
    }

    fn jump_span(&mut self, long: &[u8], short: u8, slot: usize) {
        let at = self.offset();
        self.asm.bytes.extend_from_slice(long);
        self.asm.dword(0);
        let bytes = long.len() as u8 + 4;
        self.spans.push(Span::Jump {
            at,
            bytes,
            short,
            to: slot as u32,
        });
    }

    /// `call place`.
    pub fn call(&mut self, place: Place) {
        self.asm.byte(0xe8);
        self.reference(place);
    }

    /// `call address`, which is reached by a stub if it is far away.
    pub fn call_helper(&mut self, address: u64) {
        self.asm.byte(0xe8);
        let at = self.asm.offset();
        self.calls.push(HelperCall { at, address });
        self.asm.dword(0);
    }

    /// A displacement of 32 bits relative to its own end.
    pub fn reference(&mut self, place: Place) {
        self.references.push((self.offset(), place));
        self.asm.dword(0);
    }

    /// `jcc` forward to where the hop is landed, at most 127 bytes on.
    pub fn hop_if(&mut self, cc: Cc) -> Hop {
        self.asm.byte(0x70 | cc.0);
        self.asm.byte(0);
        Hop(self.asm.offset())
    }

    /// `jmp` forward to where the hop is landed, at most 127 bytes on.
    pub fn hop(&mut self) -> Hop {
        self.asm.byte(0xeb);
        self.asm.byte(0);
        Hop(self.asm.offset())
    }

    /// A hop leads here.
    pub fn land(&mut self, Hop(from): Hop) {
        let distance = self.asm.offset() - from;
        debug_assert!(distance <= 127, "one instruction's code is short");
        self.asm.bytes[from - 1] = distance as u8;
    }

    /// `jcc` back to `to`, at most 128 bytes.
    pub fn hop_back_if(&mut self, cc: Cc, to: usize) {
        let distance = self.asm.offset() + 2 - to;
        debug_assert!(distance <= 128, "one instruction's code is short");
        self.asm.byte(0x70 | cc.0);
        self.asm.byte((distance as u8).wrapping_neg());
    }

    /// Lays the code out and resolves all references but calls of helpers.
    ///
    /// # Errors
    /// A distance does not fit.
    pub fn finish(mut self) -> Result<Finished, LinkError> {
        // Displacements are of 32 bits; so are positions here.
        i32::try_from(self.asm.offset()).map_err(|_| LinkError::TooLarge)?;
        let layout = Layout::new(&self.spans, &self.slots, self.short_jumps);
        let mut bytes = layout.apply(&self.asm.bytes, &self.slots);
        i32::try_from(bytes.len()).map_err(|_| LinkError::TooLarge)?;
        for (at, place) in self.references {
            let to = match place {
                Place::Subprogram(n) => self.subprograms[n],
                Place::Callback(n) => self.callbacks[n],
            };
            let at = layout.moved(at);
            let distance = layout.moved(to) as i32 - (at as i32 + 4);
            let at = at as usize;
            bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        for call in &mut self.calls {
            call.at = layout.moved(call.at as u32) as usize;
        }
        let start = self.subprograms.first().map_or(0, |&at| layout.moved(at));
        Ok(Finished {
            bytes,
            calls: self.calls,
            start: start as usize,
        })
    }
}
