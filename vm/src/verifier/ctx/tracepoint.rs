//! A tracepoint's record. Its length is checked when the program is attached.

use super::{At, Field};

/// Bytes of a record (kernel: `PERF_MAX_TRACE_SIZE`).
const MAX_TRACE: i64 = 8192;

pub(super) fn field(at: At) -> Option<Field> {
    // The first word is the kernel's own.
    (at.is_read() && at.starts_in(8, MAX_TRACE) && at.is_aligned()).then_some(Field::Number)
}
