//! Where control goes in a piece of text: where instructions start, where
//! direct jumps lead, which bytes nothing runs. It knows no hook.
//!
//! It sees no jump through a register or a table. Functions that have one are
//! *unclear*: whatever starts in them may be jumped to.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};

use crate::module::LONGEST_PADDING;

/// Addresses from a start on, one bit each.
#[derive(Debug)]
struct Marks {
    start: u64,
    words: Vec<u64>,
}

impl Marks {
    fn new(range: &Range<u64>) -> Marks {
        let bytes = (range.end - range.start) as usize;
        Marks {
            start: range.start,
            words: vec![0; bytes.div_ceil(64)],
        }
    }

    fn set(&mut self, addr: u64) {
        let at = addr.wrapping_sub(self.start);
        if let Some(word) = self.words.get_mut((at / 64) as usize) {
            *word |= 1 << (at % 64);
        }
    }

    fn has(&self, addr: u64) -> bool {
        let at = addr.wrapping_sub(self.start);
        let word = self.words.get((at / 64) as usize);
        word.is_some_and(|word| word & 1 << (at % 64) != 0)
    }
}

/// Control flow of one piece of text.
#[derive(Debug)]
pub(crate) struct Flow {
    starts: Marks,
    targets: Marks,
    /// Functions with jumps that lead who knows where, or that do not decode.
    unclear: Vec<Range<u64>>,
    /// Padding that nothing runs, by address.
    gaps: Vec<Range<u64>>,
}

impl Flow {
    /// Follows all `functions` (by start, addresses in `range`) in `bytes`.
    pub(crate) fn of(range: &Range<u64>, bytes: &[u8], functions: &[Range<u64>]) -> Flow {
        let mut flow = Flow {
            starts: Marks::new(range),
            targets: Marks::new(range),
            unclear: Vec::new(),
            gaps: Vec::new(),
        };
        let mut gaps = Vec::new();
        for (i, function) in functions.iter().enumerate() {
            let next = functions.get(i + 1).map_or(range.end, |next| next.start);
            let until = if next >= function.end && next - function.end <= LONGEST_PADDING {
                next
            } else {
                function.end
            };
            let code = (function.start - range.start) as usize..(until - range.start) as usize;
            let len = (function.end - function.start) as usize;
            if let Some(code) = bytes.get(code) {
                flow.follow(function.start, code, len, &mut gaps);
            }
        }
        gaps.retain(|gap: &Range<u64>| {
            let is_inside = functions[..functions.partition_point(|f| f.start <= gap.start)]
                .last()
                .is_some_and(|function| function.end > gap.start);
            let may_be_entered = is_inside && flow.is_unclear(gap.start);
            !may_be_entered && !flow.is_target_in(gap)
        });
        gaps.sort_by_key(|gap| gap.start);
        flow.gaps = gaps;
        flow
    }

    /// Follows a function of `len` bytes and what is behind it.
    fn follow(&mut self, start: u64, code: &[u8], len: usize, gaps: &mut Vec<Range<u64>>) {
        let end = start + len as u64;
        let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut gap: Option<Range<u64>> = None;
        let mut is_unclear = false;
        let found = gaps.len();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let is_padding = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3);
            if instruction.is_invalid() && instruction.ip() < end {
                // What was seen so far may have been seen askew.
                is_unclear = true;
                gaps.truncate(found);
                gap = None;
                break;
            }
            if instruction.ip() >= end && !is_padding {
                gap = None;
                break;
            }
            if instruction.ip() < end {
                self.starts.set(instruction.ip());
            }
            if is_padding && let Some(gap) = &mut gap {
                gap.end = instruction.next_ip();
                continue;
            }
            gaps.extend(gap.take().filter(|gap| !gap.is_empty()));
            if ends(&instruction) {
                gap = Some(instruction.next_ip()..instruction.next_ip());
            }
            match instruction.flow_control() {
                FlowControl::UnconditionalBranch
                | FlowControl::ConditionalBranch
                | FlowControl::Call
                | FlowControl::XbeginXabortXend => {
                    self.targets.set(instruction.near_branch_target());
                }
                // Through the global offset table it leaves the function.
                FlowControl::IndirectBranch => {
                    is_unclear |= !instruction.is_ip_rel_memory_operand()
                }
                _ => {}
            }
        }
        gaps.extend(gap.filter(|gap| !gap.is_empty()));
        if is_unclear {
            self.unclear.push(start..end);
        }
    }

    /// Whether an instruction starts at `addr`.
    pub(crate) fn is_start(&self, addr: u64) -> bool {
        self.starts.has(addr)
    }

    /// Whether a direct jump or call leads into `range`.
    pub(crate) fn is_target_in(&self, range: &Range<u64>) -> bool {
        range.clone().any(|addr| self.targets.has(addr))
    }

    /// Whether the function at `addr` has jumps of which nobody knows where
    /// they lead.
    pub(crate) fn is_unclear(&self, addr: u64) -> bool {
        let behind = self
            .unclear
            .partition_point(|function| function.start <= addr);
        // Functions seldom hold others.
        let mut before = self.unclear[..behind].iter().rev().take(4);
        before.any(|function| function.contains(&addr))
    }

    /// Padding that nothing runs and that overlaps `range`.
    pub(crate) fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = &Range<u64>> {
        let first = self.gaps.partition_point(|gap| gap.end <= range.start);
        self.gaps[first..]
            .iter()
            .take_while(move |gap| gap.start < range.end)
    }
}

/// Whether nothing runs on behind an instruction. `hlt`, `int3` and the like do
/// not count: someone may resume behind them.
pub(crate) fn ends(instruction: &Instruction) -> bool {
    match instruction.flow_control() {
        FlowControl::Return | FlowControl::UnconditionalBranch | FlowControl::IndirectBranch => {
            true
        }
        FlowControl::Exception => instruction.mnemonic() == Mnemonic::Ud2,
        _ => false,
    }
}
