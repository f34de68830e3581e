//! `struct xdp_md`.

use super::{At, Field};

/// Offsets of its fields; all are 32 bits.
const DATA: i64 = 0;
const DATA_END: i64 = 4;
const DATA_META: i64 = 8;
const EGRESS_IFINDEX: i64 = 20;
const SIZE: i64 = 24;
/// `BPF_XDP_DEVMAP`: programs that run for a device that sends.
const BPF_XDP_DEVMAP: u32 = 33;

pub(super) fn field(at: At, attach_type: u32) -> Option<Field> {
    if at.off == EGRESS_IFINDEX && attach_type != BPF_XDP_DEVMAP {
        return None;
    }
    if !at.is_read() || !at.starts_in(0, SIZE) || at.size != 4 || !at.is_aligned() {
        return None;
    }
    let field = match at.off {
        DATA => Field::Packet,
        DATA_META => Field::PacketMeta,
        DATA_END => Field::PacketEnd,
        _ => Field::Number,
    };
    (field == Field::Number || !at.signed).then_some(field)
}
