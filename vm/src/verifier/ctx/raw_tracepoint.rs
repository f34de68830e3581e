//! A raw tracepoint's arguments, one word each.

use super::{At, Field};

/// Arguments of a raw tracepoint (kernel: `MAX_BPF_FUNC_ARGS`).
const MAX_ARGS: i64 = 12;

pub(super) fn field(at: At) -> Option<Field> {
    (at.is_read() && at.starts_in(0, 8 * MAX_ARGS) && at.is_aligned()).then_some(Field::Number)
}

/// As [`field`], for a tracepoint whose first argument is memory that the
/// program may write.
pub(super) fn writable_field(at: At) -> Option<Field> {
    if at.off == 0 {
        return (at.is_read() && at.size == 8).then_some(Field::TpBuffer);
    }
    field(at)
}
