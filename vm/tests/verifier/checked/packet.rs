//! Packets of random sizes, sockets, and the ctx fields that are their
//! addresses.

use uapi::prog::*;

use super::{Machine, address};

/// Offset of `sk` in `struct __sk_buff`.
const SK: u64 = 168;

/// Offsets of the fields that are a packet's start, its end, and the start of
/// what precedes it, in the ctx of this program type.
pub fn packet_fields(prog_type: u32) -> &'static [i16] {
    match prog_type {
        BPF_PROG_TYPE_XDP => &[0, 4, 8],
        BPF_PROG_TYPE_SCHED_CLS | BPF_PROG_TYPE_SCHED_ACT => &[76, 80, 140],
        _ => &[],
    }
}

impl Machine<'_> {
    /// Another packet takes the place of the one there was.
    pub(super) fn new_packet(&mut self) {
        if let Some(region) = self.regions.get_mut(self.packet.0)
            && self.packet.0 != self.ctx
        {
            region.alive = false;
        }
        let size = self.stream.pick(&[0, 1, 4, 8, 9, 14, 15, 34, 70, 300]);
        let before = self.stream.pick(&[0, 0, 0, 4, 8]);
        self.packet = (self.region(size + before as usize, true), before);
    }

    /// What a load from the ctx gives where it is the packet's place.
    pub(super) fn packet_address(&mut self, at: u64) -> Option<u64> {
        let off = at.wrapping_sub(address(self.ctx));
        let has_skb = matches!(
            self.pack.spec.prog_type,
            BPF_PROG_TYPE_SOCKET_FILTER | BPF_PROG_TYPE_SCHED_CLS | BPF_PROG_TYPE_SCHED_ACT
        );
        if off == SK && has_skb {
            return Some(self.socket());
        }
        let fields = packet_fields(self.pack.spec.prog_type);
        let field = fields.iter().position(|&field| field as u64 == off)?;
        let (region, before) = self.packet;
        let start = address(region);
        Some(match field {
            0 => start + before,
            1 => start + self.regions[region].bytes.len() as u64,
            _ => start,
        })
    }

    /// A socket to look into, or NULL. That it is given back is not checked.
    pub(super) fn socket(&mut self) -> u64 {
        if self.stream.below(3) == 0 {
            return 0;
        }
        address(self.region(112, false))
    }
}
