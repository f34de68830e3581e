//! Short jumps and alignment: which jumps fit into two bytes once the others
//! are short, and where everything is then. Knows jumps and nops.

/// A part of the code whose length is decided at the end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Span {
    /// A jump in its long form of `bytes` bytes, the last four of which are
    /// the displacement to slot `to`.
    Jump {
        at: u32,
        bytes: u8,
        /// Opcode of the form of two bytes.
        short: u8,
        to: u32,
    },
    /// What is here moves to a multiple of 2 to the power of `log`.
    Align { at: u32, log: u8 },
}

/// Bytes of a short jump.
const SHORT: u32 = 2;

/// Rounds of looking for jumps that became short because others did.
const ROUNDS: usize = 3;

/// Code with all spans decided.
pub(super) struct Layout<'a> {
    spans: &'a [Span],
    /// By span: whether a jump is short.
    short: Vec<bool>,
    /// By span: where what follows it was, and where it is now.
    ends: Vec<(u32, u32)>,
}

impl Layout<'_> {
    /// Decides all spans; `slots` are the positions of slots.
    pub fn new<'a>(spans: &'a [Span], slots: &[u32], short_jumps: bool) -> Layout<'a> {
        let mut layout = Layout {
            spans,
            short: vec![false; spans.len()],
            ends: Vec::with_capacity(spans.len()),
        };
        if short_jumps {
            for _ in 0..ROUNDS {
                // With the most padding there can be, so that no distance
                // grows when the real padding is known.
                layout.place(|_, log| (1 << log) - 1);
                if !layout.shorten(slots) {
                    break;
                }
            }
        }
        layout.place(|at, log| at.wrapping_neg() & ((1 << log) - 1));
        layout
    }

    /// Computes `ends`, with so much padding at an address for an alignment.
    fn place(&mut self, padding: impl Fn(u32, u8) -> u32) {
        self.ends.clear();
        let (mut old, mut new) = (0, 0);
        for (span, &short) in self.spans.iter().zip(&self.short) {
            match *span {
                Span::Jump { at, bytes, .. } => {
                    let bytes = u32::from(bytes);
                    new += at - old + if short { SHORT } else { bytes };
                    old = at + bytes;
                }
                Span::Align { at, log } => {
                    new += at - old;
                    new += padding(new, log);
                    old = at;
                }
            }
            self.ends.push((old, new));
        }
    }

    /// Makes jumps short that can be; whether any was.
    fn shorten(&mut self, slots: &[u32]) -> bool {
        let mut any = false;
        for index in 0..self.spans.len() {
            let Span::Jump { to, .. } = self.spans[index] else {
                continue;
            };
            if self.short[index] {
                continue;
            }
            let end = i64::from(self.ends[index].1);
            let distance = i64::from(self.moved(slots[to as usize])) - end;
            // Backwards, the jump itself lies in between and shrinks.
            if (-128..=127).contains(&distance) {
                self.short[index] = true;
                any = true;
            }
        }
        any
    }

    /// Where what was at `old`, outside of any jump, is now; behind the
    /// padding if that is for it.
    pub fn moved(&self, old: u32) -> u32 {
        let passed = self.ends.partition_point(|&(end, _)| end <= old);
        match passed.checked_sub(1) {
            Some(last) => {
                let (end, now) = self.ends[last];
                now + (old - end)
            }
            None => old,
        }
    }

    /// The code as laid out, with its jumps resolved.
    pub fn apply(&self, code: &[u8], slots: &[u32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(code.len() + 32);
        let mut copied = 0;
        for (index, span) in self.spans.iter().enumerate() {
            let (old_end, new_end) = self.ends[index];
            match *span {
                Span::Jump { at, short, to, .. } => {
                    let distance = self.moved(slots[to as usize]) as i32 - new_end as i32;
                    if self.short[index] {
                        bytes.extend_from_slice(&code[copied..at as usize]);
                        bytes.extend_from_slice(&[short, distance as u8]);
                    } else {
                        bytes.extend_from_slice(&code[copied..old_end as usize - 4]);
                        bytes.extend_from_slice(&distance.to_le_bytes());
                    }
                }
                Span::Align { at, .. } => {
                    bytes.extend_from_slice(&code[copied..at as usize]);
                    pad(&mut bytes, new_end as usize);
                }
            }
            copied = old_end as usize;
        }
        bytes.extend_from_slice(&code[copied..]);
        bytes
    }
}

/// Instructions without effect, by length (Intel's manual, NOP).
const NOPS: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Fills up to `end` with as few instructions as there can be.
fn pad(bytes: &mut Vec<u8>, end: usize) {
    while bytes.len() < end {
        let longest = NOPS.len().min(end - bytes.len());
        bytes.extend_from_slice(NOPS[longest - 1]);
    }
}
