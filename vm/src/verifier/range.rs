//! What is known of a 64-bit number: its bits, and its bounds as unsigned and
//! signed number in 64 and in 32 bits. It knows no instructions.

use super::tnum::Tnum;

/// A set of numbers. The five views describe the same set; each may know more
/// than the others until [`Scalar::sync`] has spread it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scalar {
    pub(super) bits: Tnum,
    pub(super) umin: u64,
    pub(super) umax: u64,
    pub(super) smin: i64,
    pub(super) smax: i64,
    pub(super) umin32: u32,
    pub(super) umax32: u32,
    pub(super) smin32: i32,
    pub(super) smax32: i32,
}

impl Scalar {
    /// Any number.
    pub(super) const UNKNOWN: Scalar = Scalar {
        bits: Tnum::UNKNOWN,
        umin: 0,
        umax: u64::MAX,
        smin: i64::MIN,
        smax: i64::MAX,
        umin32: 0,
        umax32: u32::MAX,
        smin32: i32::MIN,
        smax32: i32::MAX,
    };

    pub(super) const fn known(n: u64) -> Scalar {
        Scalar {
            bits: Tnum::known(n),
            umin: n,
            umax: n,
            smin: n as i64,
            smax: n as i64,
            umin32: n as u32,
            umax32: n as u32,
            smin32: n as i32,
            smax32: n as i32,
        }
    }

    /// Any number that fits in `bytes` bytes, zero-extended.
    pub(super) fn unknown_bytes(bytes: u32) -> Scalar {
        let bits = Tnum::UNKNOWN.truncate(bytes);
        Scalar::from_bits(bits)
    }

    pub(super) fn from_bits(bits: Tnum) -> Scalar {
        Scalar {
            bits,
            ..Scalar::UNKNOWN
        }
        .synced()
    }

    pub(super) fn from_signed(smin: i64, smax: i64) -> Scalar {
        Scalar {
            smin,
            smax,
            ..Scalar::UNKNOWN
        }
        .synced()
    }

    /// The number, when there is only one.
    pub(super) const fn as_const(&self) -> Option<u64> {
        if self.bits.is_const() {
            Some(self.bits.value)
        } else {
            None
        }
    }

    pub(super) fn is_unknown(&self) -> bool {
        *self == Scalar::UNKNOWN
    }

    /// Whether `n` is in the set, by every view.
    pub(super) fn contains(&self, n: u64) -> bool {
        self.bits.contains(n)
            && (self.umin..=self.umax).contains(&n)
            && (self.smin..=self.smax).contains(&(n as i64))
            && (self.umin32..=self.umax32).contains(&(n as u32))
            && (self.smin32..=self.smax32).contains(&(n as i32))
    }

    /// Whether every number of `inner` is in `self`, judged view by view.
    pub(super) fn includes(&self, inner: &Scalar) -> bool {
        self.umin <= inner.umin
            && self.umax >= inner.umax
            && self.smin <= inner.smin
            && self.smax >= inner.smax
            && self.umin32 <= inner.umin32
            && self.umax32 >= inner.umax32
            && self.smin32 <= inner.smin32
            && self.smax32 >= inner.smax32
            && self.bits.includes(inner.bits)
    }

    /// What is in both sets, `None` when nothing is.
    pub(super) fn intersect(&self, other: &Scalar) -> Option<Scalar> {
        Scalar {
            bits: self.bits.intersect(other.bits)?,
            umin: self.umin.max(other.umin),
            umax: self.umax.min(other.umax),
            smin: self.smin.max(other.smin),
            smax: self.smax.min(other.smax),
            umin32: self.umin32.max(other.umin32),
            umax32: self.umax32.min(other.umax32),
            smin32: self.smin32.max(other.smin32),
            smax32: self.smax32.min(other.smax32),
        }
        .sync()
    }

    /// As [`Scalar::sync`] for a set that is known not to be empty.
    pub(super) fn synced(self) -> Scalar {
        // An operator that made an empty set would be a bug of ours; knowing
        // nothing is the answer that cannot do harm.
        self.sync().unwrap_or(Scalar::UNKNOWN)
    }

    /// Spreads what each view knows to the others; `None` when they
    /// contradict each other, that is, when the set is empty.
    pub(super) fn sync(mut self) -> Option<Scalar> {
        // Each round only removes numbers that some view excludes; more
        // rounds would only gain precision.
        for _ in 0..2 {
            if let Some(n) = self.as_const() {
                return self.contains(n).then_some(Scalar::known(n));
            }
            self.bounds_from_bits();
            if !self.signs_agree() {
                return None;
            }
            self.halves_agree();
            if !self.signs_agree() {
                return None;
            }
            let wide = Tnum::range(self.umin, self.umax);
            let low = Tnum::range(u64::from(self.umin32), u64::from(self.umax32));
            let bits = self.bits.intersect(wide)?;
            self.bits = bits.with_subreg(bits.subreg().intersect(low)?);
        }
        self.bounds_from_bits();
        self.signs_agree().then_some(self)
    }

    fn bounds_from_bits(&mut self) {
        let bits = self.bits;
        self.umin = self.umin.max(bits.min());
        self.umax = self.umax.min(bits.max());
        // Smallest signed member: sign bit set if it may be, other unknown bits clear.
        let sign = 1u64 << 63;
        self.smin = self.smin.max((bits.value | (bits.mask & sign)) as i64);
        self.smax = self.smax.min((bits.value | (bits.mask & !sign)) as i64);
        let (value, mask) = (bits.value as u32, bits.mask as u32);
        let sign = 1u32 << 31;
        self.umin32 = self.umin32.max(value);
        self.umax32 = self.umax32.min(value | mask);
        self.smin32 = self.smin32.max((value | (mask & sign)) as i32);
        self.smax32 = self.smax32.min((value | (mask & !sign)) as i32);
    }

    /// The signed and the unsigned interval of each width, each cut down to
    /// what the other allows. False when nothing is left.
    fn signs_agree(&mut self) -> bool {
        let wide = agree64(self.umin, self.umax, self.smin, self.smax);
        let low = agree32(self.umin32, self.umax32, self.smin32, self.smax32);
        let (Some(wide), Some(low)) = (wide, low) else {
            return false;
        };
        (self.umin, self.umax, self.smin, self.smax) = wide;
        (self.umin32, self.umax32, self.smin32, self.smax32) = low;
        true
    }

    fn halves_agree(&mut self) {
        // 64 to 32: an interval within one upper half orders the lower halves.
        if self.umin >> 32 == self.umax >> 32 {
            self.umin32 = self.umin32.max(self.umin as u32);
            self.umax32 = self.umax32.min(self.umax as u32);
        }
        if self.smin >> 32 == self.smax >> 32 {
            self.umin32 = self.umin32.max(self.smin as u32);
            self.umax32 = self.umax32.min(self.smax as u32);
        }
        // Crossing one upper-half boundary in the middle is a signed interval around 0.
        if (self.umin >> 32).wrapping_add(1) == self.umax >> 32
            && (self.umin as i32) < 0
            && self.umax as i32 >= 0
        {
            self.smin32 = self.smin32.max(self.umin as i32);
            self.smax32 = self.smax32.min(self.umax as i32);
        }
        if (self.smin >> 32).wrapping_add(1) == self.smax >> 32
            && (self.smin as i32) < 0
            && self.smax as i32 >= 0
        {
            self.smin32 = self.smin32.max(self.smin as i32);
            self.smax32 = self.smax32.min(self.smax as i32);
        }
        // 32 to 64: the bounds move to the next number whose lower half is
        // allowed. An interval that would have to leave its range stays.
        let (low, high) = (self.umin32, self.umax32);
        if let Some(n) = first_with_low(self.umin.into(), low, high) {
            self.umin = u64::try_from(n).unwrap_or(self.umin);
        }
        if let Some(n) = last_with_low(self.umax.into(), low, high) {
            self.umax = u64::try_from(n).unwrap_or(self.umax);
        }
        if let Some(n) = first_with_low(self.smin.into(), low, high) {
            self.smin = i64::try_from(n).unwrap_or(self.smin);
        }
        if let Some(n) = last_with_low(self.smax.into(), low, high) {
            self.smax = i64::try_from(n).unwrap_or(self.smax);
        }
        // A number that fits in 32 signed bits is its own lower half, sign-extended.
        if self.smin >= i64::from(i32::MIN) && self.smax <= i64::from(i32::MAX) {
            self.smin = self.smin.max(i64::from(self.smin32));
            self.smax = self.smax.min(i64::from(self.smax32));
        }
    }
}

/// The smallest number from `n` on whose lower half is in `low..=high`; `None`
/// when `n` is one.
fn first_with_low(n: i128, low: u32, high: u32) -> Option<i128> {
    let (half, upper) = (n as u32, n & !0xffff_ffff);
    if half < low {
        Some(upper | i128::from(low))
    } else if half > high {
        Some((upper + (1 << 32)) | i128::from(low))
    } else {
        None
    }
}

/// The largest number up to `n` whose lower half is in `low..=high`; `None`
/// when `n` is one.
fn last_with_low(n: i128, low: u32, high: u32) -> Option<i128> {
    let (half, upper) = (n as u32, n & !0xffff_ffff);
    if half > high {
        Some(upper | i128::from(high))
    } else if half < low {
        Some((upper - (1 << 32)) | i128::from(high))
    } else {
        None
    }
}

macro_rules! agree {
    ($name:ident, $unsigned:ty, $signed:ty) => {
        /// Bounds of the numbers that lie in both intervals, in both views.
        fn $name(
            umin: $unsigned,
            umax: $unsigned,
            smin: $signed,
            smax: $signed,
        ) -> Option<($unsigned, $unsigned, $signed, $signed)> {
            const TOP: $unsigned = <$signed>::MAX as $unsigned;
            // Those that are not negative, and those that are.
            let low_min = umin.max(smin.max(0) as $unsigned);
            let low_max = umax.min(TOP).min(smax.max(0) as $unsigned);
            let low = smax >= 0 && low_min <= low_max;
            let high_min = umin.max(smin.min(-1) as $unsigned);
            let high_max = umax.min(smax.min(-1) as $unsigned);
            let high = smin < 0 && high_min.max(TOP + 1) <= high_max;
            let high_min = high_min.max(TOP + 1);
            match (low, high) {
                (true, true) => Some((low_min, high_max, high_min as $signed, low_max as $signed)),
                (true, false) => Some((low_min, low_max, low_min as $signed, low_max as $signed)),
                (false, true) => {
                    Some((high_min, high_max, high_min as $signed, high_max as $signed))
                }
                (false, false) => None,
            }
        }
    };
}

agree!(agree64, u64, i64);
agree!(agree32, u32, i32);
