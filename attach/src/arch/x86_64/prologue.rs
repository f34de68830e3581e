//! What frida-gum moves to make room for its jump. It knows no hook.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl};

use crate::error::Refusal;

/// The jump that gum writes.
const JUMP_BYTES: u64 = 5;
/// It and the rest of the last instruction that it touches.
pub(crate) const MOST_MOVED: usize = JUMP_BYTES as usize - 1 + 15;

/// The instructions that gum moves from a function's start.
pub(crate) fn moved(text: &[u8], addr: u64) -> Result<Range<u64>, Refusal> {
    let mut decoder = Decoder::with_ip(64, text, addr, DecoderOptions::NONE);
    while decoder.ip() < addr + JUMP_BYTES {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Err(Refusal::Undecodable);
        }
        let leads_on = matches!(
            instruction.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::IndirectBranch
        );
        if leads_on && instruction.ip() == addr {
            return Err(Refusal::Frida("it would hook where the first jump leads"));
        }
    }
    Ok(addr..decoder.ip())
}
