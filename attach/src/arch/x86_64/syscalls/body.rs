//! What the trampoline of a `syscall` instruction contains.
//!
//! ```text
//!     instructions from the jump to the system call
//!     movzx ecx, ax                   ; where the number is not known:
//!     mov r11, watched
//!     movzx ecx, byte [r11 + rcx]     ; not watched: on to the system call,
//!     jrcxz 1f                        ; without touching a flag
//!     mov r11, entry
//!     jmp thunk
//! 1:  jmp to the system call
//! ```

use super::super::decode::First;
use super::super::emit::{Emitter, any_jump};
use super::light;
use crate::error::Refusal;

/// Bytes of `mov r11, entry`.
const MOVE: u64 = 10;
/// Room for one trampoline.
pub(crate) const ROOM: u64 = 128;

/// What the code refers to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Address of the site's `Entry`.
    pub(crate) entry: u64,
    /// Address of the table of watched numbers; `None` where the number is
    /// known, for then the jump is only there when it is traced.
    pub(crate) watched: Option<u64>,
    /// Where an unwatched system call is made.
    pub(crate) unwatched: u64,
}

/// The code at `at`: `chain` are the instructions from the jump to the system
/// call, which is not among them.
pub(crate) fn code(at: u64, chain: &[First], names: Names) -> Result<Vec<u8>, Refusal> {
    let mut code = Emitter::new(at);
    for first in chain {
        let moved = first.relocate(code.here())?;
        code.bytes(&moved);
    }
    if let Some(watched) = names.watched {
        code.bytes(&[0x0f, 0xb7, 0xc8]);
        code.bytes(&[0x49, 0xbb]);
        code.bytes(&watched.to_le_bytes());
        code.bytes(&[0x41, 0x0f, 0xb6, 0x0c, 0x0b]);
        // Over `mov r11` and the jump.
        let traced = any_jump(code.here() + 2 + MOVE, light::enter_address());
        code.bytes(&[0xe3, MOVE as u8 + traced.len() as u8]);
    }
    code.bytes(&[0x49, 0xbb]);
    code.bytes(&names.entry.to_le_bytes());
    code.jump(light::enter_address());
    if names.watched.is_some() {
        code.jump(names.unwatched);
    }
    let code = code.into_bytes();
    if code.len() as u64 > ROOM {
        return Err(Refusal::Immovable);
    }
    Ok(code)
}
