//! Machine code, by safe code: trampolines and jumps.

use super::decode::First;
use super::entry;
use crate::error::Refusal;

/// Bytes of `jmp rel32`.
pub(crate) const JUMP_LEN: usize = 5;
/// Bytes of `jmp [rip]` with its address.
const FAR_JUMP_LEN: u64 = 14;
/// Room for one trampoline: two addresses, 25 bytes of code, the displaced
/// code and a far jump back.
pub(crate) const TRAMPOLINE_BYTES: u64 = 128;

/// Code for a known address.
pub(crate) struct Emitter {
    at: u64,
    code: Vec<u8>,
}

impl Emitter {
    /// Code that will stand at `at`.
    pub(crate) fn new(at: u64) -> Emitter {
        Emitter {
            at,
            code: Vec::new(),
        }
    }

    /// Address of the next byte.
    pub(crate) fn here(&self) -> u64 {
        self.at + self.code.len() as u64
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.code.len()
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// `jmp target`, near if it reaches.
    pub(crate) fn jump(&mut self, target: u64) {
        match near_jump(self.here(), target) {
            Some(jump) => self.bytes(&jump),
            None => self.far_jump(target),
        }
    }

    /// `jmp [rip]` to anywhere: 14 bytes.
    pub(crate) fn far_jump(&mut self, target: u64) {
        self.bytes(&[0xff, 0x25, 0, 0, 0, 0]);
        self.bytes(&target.to_le_bytes());
    }

    /// `push value`, without touching a register or flag.
    pub(crate) fn push_imm64(&mut self, value: u64) {
        // push imm32 (sign-extended); mov dword [rsp + 4], high half.
        self.bytes(&[0x68]);
        self.bytes(&(value as u32).to_le_bytes());
        self.bytes(&[0xc7, 0x44, 0x24, 0x04]);
        self.bytes(&((value >> 32) as u32).to_le_bytes());
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.code
    }
}

/// `jmp rel32` at `at`, if it reaches.
pub(crate) fn near_jump(at: u64, target: u64) -> Option<[u8; JUMP_LEN]> {
    let distance = target.wrapping_sub(at.wrapping_add(JUMP_LEN as u64)) as i64;
    let [b0, b1, b2, b3] = i32::try_from(distance).ok()?.to_le_bytes();
    Some([0xe9, b0, b1, b2, b3])
}

/// `es:`, which jumps ignore.
const PREFIX: u8 = 0x26;
/// Most prefixes before a jump.
pub(crate) const MOST_PREFIXES: usize = 3;

/// `jmp rel32` behind prefixes that do nothing, at `at`. They are the first of
/// `original` where those do nothing to a jump either: the fewer bytes change,
/// the more often one word holds them.
pub(crate) fn prefixed_jump(
    original: &[u8],
    prefixes: usize,
    at: u64,
    target: u64,
) -> Option<Vec<u8>> {
    // Segments and REX. Not the operand size: some processors heed it.
    let is_ignored = |byte: u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f);
    let prefix = |byte: &u8| if is_ignored(*byte) { *byte } else { PREFIX };
    let mut jump: Vec<u8> = original.iter().take(prefixes).map(prefix).collect();
    jump.extend(near_jump(at + prefixes as u64, target)?);
    Some(jump)
}

/// `call rel32` at `at`, if it reaches.
pub(crate) fn near_call(at: u64, target: u64) -> Option<[u8; JUMP_LEN]> {
    let [_, b0, b1, b2, b3] = near_jump(at, target)?;
    Some([0xe8, b0, b1, b2, b3])
}

/// `jmp rel8` at `at`, if it reaches.
pub(crate) fn short_jump(at: u64, target: u64) -> Option<[u8; 2]> {
    let distance = target.wrapping_sub(at.wrapping_add(2)) as i64;
    let [byte] = i8::try_from(distance).ok()?.to_le_bytes();
    Some([0xeb, byte])
}

/// A jump from `at` to `target` of at most [`FAR_JUMP_LEN`] bytes.
pub(crate) fn any_jump(at: u64, target: u64) -> Vec<u8> {
    let mut code = Emitter::new(at);
    code.jump(target);
    code.into_bytes()
}

/// Where a trampoline is entered: behind two addresses.
pub(crate) const TRAMPOLINE_ENTRY: u64 = 16;
/// Where the displaced instructions are in it: behind an `lea`, the call and
/// what it returns to.
#[cfg(test)]
pub(crate) const DISPLACED_AT: u64 = TRAMPOLINE_ENTRY + 14 + entry::DISPLACED_AFTER_RETURN as u64;

/// A trampoline at `at`: thunk and site addresses, then
///
/// ```text
///     lea rsp, [rsp - 136]        ; red zone, and a word to jump through
///     call [thunk]
///     jmp [rsp]                   ; the thunk wrote the next line's address,
///     lea rsp, [rsp + 136]        ; or the return stub's
///     displaced instructions
///     jmp behind them
/// ```
///
/// The thunk is chosen by the probes that there are: its address lies in an
/// aligned word, so that it can change.
///
/// It is jumped to from the last of `displaced`. The others have run by then;
/// the first line undoes them, as they only moved the stack pointer, and they
/// run again.
pub(crate) fn trampoline(at: u64, site: u64, displaced: &[First]) -> Result<Vec<u8>, Refusal> {
    let (last, lead) = displaced.split_last().ok_or(Refusal::Undecodable)?;
    let undone: i32 = lead.iter().filter_map(First::undone_by).sum();
    let undone = undone + last.pushed();
    let thunk = entry::address();
    let mut code = Emitter::new(at);
    code.bytes(&thunk.to_le_bytes());
    code.bytes(&site.to_le_bytes());
    code.bytes(&[0x48, 0x8d, 0xa4, 0x24]);
    code.bytes(&(undone - entry::SKIPPED).to_le_bytes());
    let after_call = code.here() + 6;
    debug_assert_eq!(after_call - (at + 8), entry::SITE_BEFORE_RETURN as u64);
    code.bytes(&[0xff, 0x15]);
    code.bytes(&(at.wrapping_sub(after_call) as i32).to_le_bytes());
    code.bytes(&[0xff, 0x24, 0x24]);
    debug_assert_eq!(code.here() - after_call, entry::RESTORE_AFTER_RETURN as u64);
    code.bytes(&[0x48, 0x8d, 0xa4, 0x24]);
    code.bytes(&entry::SKIPPED.to_le_bytes());
    debug_assert_eq!(
        code.here() - after_call,
        entry::DISPLACED_AFTER_RETURN as u64
    );
    displace(&mut code, displaced)?;
    let code = code.into_bytes();
    if code.len() as u64 > TRAMPOLINE_BYTES {
        return Err(Refusal::Immovable);
    }
    Ok(code)
}

/// The displaced instructions, and a jump behind them.
pub(super) fn displace(code: &mut Emitter, displaced: &[First]) -> Result<(), Refusal> {
    for first in displaced {
        code.bytes(&first.relocate(code.here())?);
    }
    code.jump(displaced.last().map_or(0, First::next));
    Ok(())
}

/// Most bytes that [`any_jump`] gives.
pub(crate) const LANDING_BYTES: u64 = FAR_JUMP_LEN;
