//! Known bits of a number: each bit is 0, 1 or unknown (kernel:
//! `kernel/bpf/tnum.c`). It knows no ranges; `range` joins both.

/// The set of numbers that agree with `value` wherever `mask` is 0.
/// `value & mask` is always 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tnum {
    pub(super) value: u64,
    pub(super) mask: u64,
}

impl Tnum {
    pub(super) const UNKNOWN: Tnum = Tnum {
        value: 0,
        mask: u64::MAX,
    };

    pub(super) const fn known(value: u64) -> Tnum {
        Tnum { value, mask: 0 }
    }

    /// Every number in `min..=max`: the common leading bits are known.
    pub(super) const fn range(min: u64, max: u64) -> Tnum {
        let differ = min ^ max;
        if differ == 0 {
            return Tnum::known(min);
        }
        let mask = u64::MAX >> differ.leading_zeros();
        Tnum {
            value: min & !mask,
            mask,
        }
    }

    pub(super) const fn is_const(self) -> bool {
        self.mask == 0
    }

    /// Smallest and largest unsigned member.
    pub(super) const fn min(self) -> u64 {
        self.value
    }

    pub(super) const fn max(self) -> u64 {
        self.value | self.mask
    }

    pub(super) const fn contains(self, n: u64) -> bool {
        n & !self.mask == self.value
    }

    /// Whether every member of `inner` is a member of `self`.
    pub(super) const fn includes(self, inner: Tnum) -> bool {
        inner.mask & !self.mask == 0 && inner.value & !self.mask == self.value
    }

    /// Whether every member is a multiple of `size`, a power of two.
    pub(super) const fn is_aligned(self, size: u64) -> bool {
        (self.value | self.mask) & (size - 1) == 0
    }

    pub(super) const fn add(self, b: Tnum) -> Tnum {
        let masks = self.mask.wrapping_add(b.mask);
        let values = self.value.wrapping_add(b.value);
        let carries = masks.wrapping_add(values) ^ values;
        let mask = carries | self.mask | b.mask;
        Tnum {
            value: values & !mask,
            mask,
        }
    }

    pub(super) const fn sub(self, b: Tnum) -> Tnum {
        let values = self.value.wrapping_sub(b.value);
        let high = values.wrapping_add(self.mask);
        let low = values.wrapping_sub(b.mask);
        let mask = (high ^ low) | self.mask | b.mask;
        Tnum {
            value: values & !mask,
            mask,
        }
    }

    pub(super) const fn and(self, b: Tnum) -> Tnum {
        let ones = self.value & b.value;
        Tnum {
            value: ones,
            mask: (self.value | self.mask) & (b.value | b.mask) & !ones,
        }
    }

    pub(super) const fn or(self, b: Tnum) -> Tnum {
        let ones = self.value | b.value;
        Tnum {
            value: ones,
            mask: (self.mask | b.mask) & !ones,
        }
    }

    pub(super) const fn xor(self, b: Tnum) -> Tnum {
        let mask = self.mask | b.mask;
        Tnum {
            value: (self.value ^ b.value) & !mask,
            mask,
        }
    }

    /// Long multiplication: each certain bit of `self` adds `b` shifted, each
    /// unknown bit adds either nothing or that.
    pub(super) const fn mul(self, b: Tnum) -> Tnum {
        let mut sum = Tnum::known(self.value.wrapping_mul(b.value));
        let mut unknown = Tnum::known(0);
        let mut bit = 0;
        while bit < 64 {
            let at = 1u64 << bit;
            if self.mask & at != 0 {
                unknown = unknown.add(Tnum {
                    value: 0,
                    mask: (b.value | b.mask) << bit,
                });
            } else if self.value & at != 0 {
                unknown = unknown.add(Tnum {
                    value: 0,
                    mask: b.mask << bit,
                });
            }
            bit += 1;
        }
        sum = sum.add(unknown);
        sum
    }

    pub(super) const fn shl(self, by: u32) -> Tnum {
        Tnum {
            value: self.value << by,
            mask: self.mask << by,
        }
    }

    pub(super) const fn shr(self, by: u32) -> Tnum {
        Tnum {
            value: self.value >> by,
            mask: self.mask >> by,
        }
    }

    /// Arithmetic shift: an unknown sign bit makes unknown copies.
    pub(super) const fn sar(self, by: u32) -> Tnum {
        Tnum {
            value: ((self.value as i64) >> by) as u64,
            mask: ((self.mask as i64) >> by) as u64,
        }
    }

    /// Arithmetic shift of the low 32 bits; the upper half becomes 0.
    pub(super) const fn sar32(self, by: u32) -> Tnum {
        Tnum {
            value: ((self.value as i32) >> by) as u32 as u64,
            mask: ((self.mask as i32) >> by) as u32 as u64,
        }
    }

    /// Numbers in both sets; `None` when no number is.
    pub(super) const fn intersect(self, b: Tnum) -> Option<Tnum> {
        if (self.value ^ b.value) & !self.mask & !b.mask != 0 {
            return None;
        }
        let mask = self.mask & b.mask;
        Some(Tnum {
            value: (self.value | b.value) & !mask,
            mask,
        })
    }

    /// The low `bytes` bytes, zero-extended.
    pub(super) const fn truncate(self, bytes: u32) -> Tnum {
        if bytes >= 8 {
            return self;
        }
        let keep = (1u64 << (bytes * 8)) - 1;
        Tnum {
            value: self.value & keep,
            mask: self.mask & keep,
        }
    }

    /// The low half, zero-extended.
    pub(super) const fn subreg(self) -> Tnum {
        self.truncate(4)
    }

    /// The upper half of `self` with the low half of `low`.
    pub(super) const fn with_subreg(self, low: Tnum) -> Tnum {
        let upper = !0xffff_ffff_u64;
        Tnum {
            value: (self.value & upper) | (low.value & !upper),
            mask: (self.mask & upper) | (low.mask & !upper),
        }
    }
}

#[cfg(test)]
mod tests;
