//! How a structure must be written so that its members lie where BTF says: by
//! the rules for C of a machine that aligns every number to its size, as eBPF
//! and wasm32 do, or packed and padded by hand. It knows no language.

/// A member, or in Rust the bytes of several bitfields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first bit.
    pub bit: u64,
    /// Bits of a bitfield; 0 if it is none.
    pub bits: u64,
    /// Bytes of its type.
    pub size: u64,
    /// Alignment of its type.
    pub align: u64,
}

/// How a structure is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Whether its members are put one behind the other.
    pub packed: bool,
    /// Its alignment; of a packed one, that it has to be given.
    pub align: u64,
    /// Bits to fill before each member, and behind the last one.
    pub gaps: Vec<u64>,
}

impl Plan {
    /// A structure of `size` bytes. `fill` asks for every gap to be filled,
    /// also those that a compiler would make by itself.
    pub fn structure(size: u64, places: &[Place], fill: bool) -> Plan {
        let align = places.iter().map(|place| place.align).max().unwrap_or(1);
        if let Some(gaps) = natural(size, align, places, fill) {
            return Plan {
                packed: false,
                align,
                gaps,
            };
        }
        let aligned = |place: &Place| place.bits != 0 || place.bit.is_multiple_of(place.align * 8);
        let aligned = places.iter().all(aligned) && size.is_multiple_of(align);
        Plan {
            packed: true,
            align: if aligned { align } else { 1 },
            gaps: packed(size, places),
        }
    }

    /// A union; what has to be filled is its size, if its members are shorter.
    pub fn union(size: u64, places: &[Place]) -> Plan {
        let align = places.iter().map(|place| place.align).max().unwrap_or(1);
        let bytes = |place: &Place| match place.bits {
            0 => place.size,
            bits => bits.div_ceil(8),
        };
        let longest = places.iter().map(bytes).max().unwrap_or(0);
        let packed = !size.is_multiple_of(align);
        let align = if packed { 1 } else { align };
        let short = longest.next_multiple_of(align) < size;
        Plan {
            packed,
            align,
            gaps: vec![if short { size * 8 } else { 0 }],
        }
    }
}

/// The gaps to fill so that a compiler puts all members where they belong;
/// `None` if it cannot be brought to.
fn natural(size: u64, align: u64, places: &[Place], fill: bool) -> Option<Vec<u64>> {
    let mut gaps = Vec::new();
    let mut end = 0;
    for place in places {
        let mut start = start(end, place);
        let mut gap = 0;
        if start != place.bit || (fill && start != end) {
            // Bytes can be filled before whole members only.
            let from = end.next_multiple_of(8);
            if place.bits != 0 || place.bit < from || !place.bit.is_multiple_of(place.align * 8) {
                return None;
            }
            gap = place.bit - from;
            start = place.bit;
        }
        gaps.push(gap);
        end = start + length(place);
    }
    let end = end.next_multiple_of(8);
    let rest = (size * 8).checked_sub(end)?;
    let by_itself = end.next_multiple_of(align * 8) == size * 8;
    if !size.is_multiple_of(align) {
        return None;
    }
    gaps.push(if by_itself && !fill { 0 } else { rest });
    Some(gaps)
}

/// Where a compiler puts a member when all before it end at a bit.
fn start(end: u64, place: &Place) -> u64 {
    if place.bits == 0 {
        return end.next_multiple_of(place.align * 8);
    }
    // A bitfield crosses no boundary of its type.
    let unit = place.size * 8;
    match end % unit + place.bits > unit {
        true => end.next_multiple_of(unit),
        false => end,
    }
}

fn length(place: &Place) -> u64 {
    match place.bits {
        0 => place.size * 8,
        bits => bits,
    }
}

fn packed(size: u64, places: &[Place]) -> Vec<u64> {
    let mut gaps = Vec::new();
    let mut end: u64 = 0;
    for place in places {
        if place.bits == 0 {
            end = end.next_multiple_of(8);
        }
        gaps.push(place.bit.saturating_sub(end));
        end = place.bit + length(place);
    }
    gaps.push((size * 8).saturating_sub(end.next_multiple_of(8)));
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(byte: u64, size: u64) -> Place {
        Place {
            bit: byte * 8,
            bits: 0,
            size,
            align: size,
        }
    }

    fn field(bit: u64, bits: u64, size: u64) -> Place {
        Place {
            bit,
            bits,
            size,
            align: size,
        }
    }

    /// Packed, alignment, gaps.
    fn structure(size: u64, places: &[Place]) -> (bool, u64, Vec<u64>) {
        let plan = Plan::structure(size, places, false);
        (plan.packed, plan.align, plan.gaps)
    }

    #[test]
    fn a_compiler_needs_no_help_with_what_it_would_do() {
        let places = [whole(0, 1), whole(8, 8), whole(16, 2)];
        assert_eq!(structure(24, &places), (false, 8, vec![0, 0, 0, 0]));
        let fields = [field(0, 3, 4), field(3, 29, 4), field(32, 5, 4)];
        assert_eq!(structure(8, &fields), (false, 4, vec![0, 0, 0, 0]));
        assert_eq!(structure(0, &[]), (false, 1, vec![0]));
    }

    #[test]
    fn what_lies_further_behind_is_padded() {
        assert_eq!(
            structure(64, &[whole(0, 4), whole(16, 4)]),
            (false, 4, vec![0, 96, 352])
        );
    }

    #[test]
    fn what_lies_too_near_is_packed() {
        let places = [whole(0, 1), whole(1, 8)];
        assert_eq!(structure(9, &places), (true, 1, vec![0, 0, 0]));
        // After an unnamed bitfield.
        let fields = [field(0, 3, 4), field(8, 4, 4)];
        assert_eq!(structure(4, &fields), (true, 4, vec![0, 5, 16]));
    }

    #[test]
    fn every_gap_is_filled_on_request() {
        let plan = Plan::structure(16, &[whole(0, 1), whole(8, 4)], true);
        assert_eq!((plan.packed, plan.gaps), (false, vec![0, 56, 32]));
    }

    #[test]
    fn a_union_is_as_long_as_it_must_be() {
        let union = |size, places: &[Place]| {
            let plan = Plan::union(size, places);
            (plan.packed, plan.align, plan.gaps)
        };
        assert_eq!(union(8, &[whole(0, 8), whole(0, 5)]), (false, 8, vec![0]));
        assert_eq!(union(16, &[whole(0, 4)]), (false, 4, vec![128]));
        let nine_bytes = Place {
            align: 1,
            ..whole(0, 9)
        };
        assert_eq!(union(9, &[whole(0, 8), nine_bytes]), (true, 1, vec![0]));
    }
}
