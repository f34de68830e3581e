//! How deep the stack gets over all call chains. It knows no paths: a call
//! that was walked once counts for every chain through it.

use uapi::Errno;
use uapi::insn::{MAX_BPF_STACK, MAX_CALL_FRAMES};

use super::Fail;
use super::walk::Walk;

/// Stack below which a callee may still tail-call (kernel: 256).
const TAIL_CALL_LIMIT: u32 = 256;

/// Bytes a frame takes on the stack (kernel: `round_up_stack_depth`).
fn round(bytes: u32) -> u32 {
    bytes.next_multiple_of(16)
}

impl Walk<'_> {
    /// Rounds each frame and returns the deepest chain in bytes.
    pub(super) fn check_depth(&mut self) -> Result<u32, Fail> {
        for bytes in &mut self.frame_bytes {
            *bytes = round(*bytes);
        }
        // Deepest chain that ends in each subprogram, by number of frames.
        let mut chains: Vec<Option<u32>> = vec![None; self.frame_bytes.len()];
        chains[0] = Some(self.frame_bytes[0]);
        let mut deepest = self.frame_bytes[0];
        for frames in 1..=MAX_CALL_FRAMES {
            let reached = chains.iter().flatten().copied().max();
            let Some(reached) = reached else {
                return Ok(deepest);
            };
            if reached > MAX_BPF_STACK {
                let text = format!("combined stack size of {frames} calls is {reached}. Too large");
                return Err(Fail::eacces(text)
                    .hint("all frames of a call chain share 512 bytes; move data to a map"));
            }
            deepest = deepest.max(reached);
            let mut longer = vec![None; chains.len()];
            for &(caller, callee) in &self.calls {
                let Some(before) = chains[caller] else {
                    continue;
                };
                if self.tail_calls[callee] && before >= TAIL_CALL_LIMIT {
                    return Err(Fail::eacces(format!(
                        "tail_calls are not allowed when call stack of previous frames is {before} bytes. Too large"
                    )));
                }
                let total = before + self.frame_bytes[callee];
                let best: &mut Option<u32> = &mut longer[callee];
                *best = (*best).max(Some(total));
            }
            chains = longer;
        }
        if chains.iter().any(Option::is_some) {
            let text = format!(
                "the call stack of {} frames is too deep !",
                MAX_CALL_FRAMES + 1
            );
            return Err(Fail::new(Errno::E2BIG, text).hint("functions must not call themselves"));
        }
        Ok(deepest)
    }
}
