//! `struct pt_regs`: the registers at a kprobe or uprobe.

use super::{At, Field};

/// Bytes of `struct pt_regs` on x86-64.
pub(super) const SIZE: i64 = size_of::<uapi::PtRegs>() as i64;

pub(super) fn field(at: At) -> Option<Field> {
    let inside = at.off >= 0 && at.end() <= SIZE;
    (at.is_read() && inside && at.is_aligned()).then_some(Field::Number)
}
