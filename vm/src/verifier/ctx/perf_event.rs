//! `struct bpf_perf_event_data`: registers, sample period, address.

use super::{At, Field, pt_regs};

/// Behind the registers: `sample_period` and `addr`.
const SIZE: i64 = pt_regs::SIZE + 16;

pub(super) fn field(at: At) -> Option<Field> {
    if !at.is_read() || !at.starts_in(0, SIZE) || !at.is_aligned() {
        return None;
    }
    // Of the words behind the registers parts may be read.
    (at.off >= pt_regs::SIZE || at.size == 8).then_some(Field::Number)
}
