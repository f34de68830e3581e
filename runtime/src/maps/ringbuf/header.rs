//! The word before each record of a ring buffer, and how a record that was
//! written in this lap is told from what lies there since the last one. It
//! knows no producer.
//!
//! The low half is the kernel's `struct bpf_ringbuf_hdr.len`, which consumers
//! read; the high half is its `pg_off`, which none does and which is ours:
//! a tag of the record's position, who may move `producer_pos` over it, and
//! the claim of its producer.

use uapi::map::{BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT, BPF_RINGBUF_HDR_SZ};

/// Bits of the number of a claim; more of them are only more steps to a model.
const CLAIM_BITS: u32 = if cfg!(feature = "model") { 2 } else { 10 };
/// Claims there are: producers that can be between reserve and commit.
pub(super) const CLAIMS: u64 = 1 << CLAIM_BITS;

/// Its owner has left the record to whoever moves `producer_pos` over it.
const LEFT: u32 = 1 << (CLAIM_BITS + 1);
/// And wants nobody to be woken for it.
const QUIET: u32 = 1 << (CLAIM_BITS + 2);
/// All that is not the tag.
const NO_TAG: u32 = (CLAIMS as u32 - 1) | LEFT | QUIET;

/// Bytes of a header.
pub(super) const HEADER: u64 = BPF_RINGBUF_HDR_SZ as u64;

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header(pub u64);

impl Header {
    /// A record of `size` bytes that is being written.
    pub fn busy(size: u32, position: u64, log2_size: u32, claim: u64) -> Header {
        let tag = tag(position, log2_size) | (claim & (CLAIMS - 1)) as u32;
        Header(u64::from(size | BPF_RINGBUF_BUSY_BIT) | u64::from(tag) << 32)
    }

    /// Was it written for this position, rather than left by an earlier lap?
    pub fn is_at(self, position: u64, log2_size: u32) -> bool {
        let ours = (self.0 >> 32) as u32 & !NO_TAG;
        ours == tag(position, log2_size)
    }

    pub fn is_busy(self) -> bool {
        self.0 as u32 & BPF_RINGBUF_BUSY_BIT != 0
    }

    /// The claim of its producer.
    pub fn claim(self) -> u64 {
        self.0 >> 32 & (CLAIMS - 1)
    }

    /// The same record, committed or discarded.
    pub fn done(self, discard: bool) -> Header {
        let done = self.0 & !u64::from(BPF_RINGBUF_BUSY_BIT);
        match discard {
            true => Header(done | u64::from(BPF_RINGBUF_DISCARD_BIT)),
            false => Header(done),
        }
    }

    /// The same record, which others may move `producer_pos` over.
    pub fn left(self, quiet: bool) -> Header {
        let bits = if quiet { LEFT | QUIET } else { LEFT };
        Header(self.0 | u64::from(bits) << 32)
    }

    pub fn is_left(self) -> bool {
        self.0 >> 32 & u64::from(LEFT) != 0
    }

    pub fn is_quiet(self) -> bool {
        self.0 >> 32 & u64::from(QUIET) != 0
    }

    /// Bytes from this record to the next.
    pub fn step(self) -> u64 {
        let size = self.0 as u32 & !(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
        (u64::from(size) + HEADER).next_multiple_of(8)
    }
}

/// Depends on the lap, so that consecutive laps never have the same tag at a
/// place, and on the place, so that data is unlikely to look like a header.
/// Never 0: fresh memory is not a record.
fn tag(position: u64, log2_size: u32) -> u32 {
    let lap = (position >> log2_size) as u32;
    let place = (position as u32 >> 3) & ((1u32 << (log2_size - 3)) - 1);
    // Odd multipliers: fractional bits of the golden ratio and of sqrt(3).
    let mixed = lap.wrapping_mul(0x9e37_79b1) ^ place.wrapping_mul(0xbb67_ae85);
    (mixed | 1 << CLAIM_BITS) & !NO_TAG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_of_its_position_only() {
        for log2_size in [12, 18, 31] {
            let size = 1u64 << log2_size;
            for position in (0..64).map(|n| n * 8 + 5 * size) {
                let header = Header::busy(77, position, log2_size, 1023);
                assert!(header.is_at(position, log2_size));
                for lap in 1..2000 {
                    assert!(!header.is_at(position + lap * size, log2_size));
                }
                assert_eq!((header.step(), header.claim()), (88, 1023));
                assert!(header.is_busy() && !header.done(true).is_busy());
                assert_eq!(header.done(false).0 as u32, 77);
                assert_eq!(header.done(true).0 as u32, 77 | 1 << 30);
                assert!(!header.is_left() && !header.left(false).is_quiet());
                let left = header.done(false).left(true);
                assert!(left.is_left() && left.is_quiet() && left.is_at(position, log2_size));
                assert_eq!((left.step(), left.claim()), (88, 1023));
            }
        }
        assert!(!Header(0).is_at(0, 12));
    }
}
