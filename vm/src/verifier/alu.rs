//! Arithmetic on what is known of numbers: for each ALU operation a set that
//! contains every result. It knows no registers and no pointers.

use uapi::insn::*;

use super::range::Scalar;
use super::tnum::Tnum;

/// `dst op src` in 64 bits; `op` is the operation field of an ALU opcode.
pub(super) fn alu64(op: u8, dst: &Scalar, src: &Scalar) -> Scalar {
    match op {
        BPF_LSH | BPF_RSH | BPF_ARSH => match shift_amount(src.umin, src.umax, 64) {
            Some(by) => shift64(op, dst, by),
            None => Scalar::UNKNOWN,
        },
        BPF_NEG => alu64(BPF_SUB, &Scalar::known(0), dst),
        BPF_ADD | BPF_SUB | BPF_MUL | BPF_AND | BPF_OR | BPF_XOR => {
            let mut out = both_halves(op, dst, src);
            let (u, s) = bounds(op, &view64(dst), &view64(src), u64::MAX, i64::MIN, i64::MAX);
            (out.umin, out.umax) = u;
            (out.smin, out.smax) = s;
            out.synced()
        }
        // Division and remainder, and whatever is added to the set later.
        _ => Scalar::UNKNOWN,
    }
}

/// `dst op src` in 32 bits; the upper half of the result is 0.
pub(super) fn alu32(op: u8, dst: &Scalar, src: &Scalar) -> Scalar {
    let out = match op {
        BPF_LSH | BPF_RSH | BPF_ARSH => {
            let (min, max) = (u64::from(src.umin32), u64::from(src.umax32));
            match shift_amount(min, max, 32) {
                Some(by) => shift32(op, dst, by),
                None => Scalar::UNKNOWN,
            }
        }
        BPF_NEG => return alu32(BPF_SUB, &Scalar::known(0), dst),
        BPF_ADD | BPF_SUB | BPF_MUL | BPF_AND | BPF_OR | BPF_XOR => both_halves(op, dst, src),
        _ => Scalar::UNKNOWN,
    };
    zero_extend(&out)
}

/// What is left when the upper half is cleared.
pub(super) fn zero_extend(s: &Scalar) -> Scalar {
    Scalar {
        bits: s.bits.subreg(),
        umin: u64::from(s.umin32),
        umax: u64::from(s.umax32),
        smin: i64::from(s.umin32),
        smax: i64::from(s.umax32),
        ..*s
    }
    .synced()
}

/// The low `bytes` bytes, zero-extended.
pub(super) fn truncate(s: &Scalar, bytes: u32) -> Scalar {
    match bytes {
        8 => *s,
        4 => zero_extend(s),
        _ => {
            let top = (1u64 << (8 * bytes)) - 1;
            if s.umax <= top {
                *s
            } else {
                Scalar::from_bits(s.bits.truncate(bytes))
            }
        }
    }
}

/// The low `bytes` bytes, sign-extended to 64 bits.
pub(super) fn sign_extend(s: &Scalar, bytes: u32) -> Scalar {
    if bytes == 8 {
        return *s;
    }
    let spare = 64 - 8 * bytes;
    if let Some(n) = s.as_const() {
        return Scalar::known(((n << spare) as i64 >> spare) as u64);
    }
    // As the kernel: bounds survive when they differ in the low bytes only and
    // the sign of those is the same for both.
    let extend = |n: i64| (n << spare) >> spare;
    let (min, max) = (extend(s.smin), extend(s.smax));
    let width = 64 - spare;
    if s.smin >> width == s.smax >> width && (min < 0) == (max < 0) {
        Scalar::from_signed(min, max)
    } else {
        Scalar::from_signed(i64::MIN >> spare, i64::MAX >> spare)
    }
}

/// The low `bytes` bytes sign-extended to 32 bits, upper half 0.
pub(super) fn sign_extend32(s: &Scalar, bytes: u32) -> Scalar {
    zero_extend(&sign_extend(s, bytes))
}

/// The low `bits` bits in reversed byte order, or as they are.
pub(super) fn byte_order(s: &Scalar, bits: u32, swap: bool) -> Scalar {
    let bytes = bits / 8;
    let low = truncate(s, bytes);
    if !swap {
        return low;
    }
    let reverse = |n: u64| n.swap_bytes() >> (64 - bits);
    Scalar::from_bits(Tnum {
        value: reverse(low.bits.value),
        mask: reverse(low.bits.mask),
    })
}

/// A shift by a known amount below the width; others are not tracked.
fn shift_amount(min: u64, max: u64, width: u64) -> Option<u32> {
    (min == max && max < width).then_some(max as u32)
}

/// One width's bounds, wide enough that no operation below overflows.
struct View {
    umin: u128,
    umax: u128,
    smin: i128,
    smax: i128,
}

fn view64(s: &Scalar) -> View {
    View {
        umin: s.umin.into(),
        umax: s.umax.into(),
        smin: s.smin.into(),
        smax: s.smax.into(),
    }
}

fn view32(s: &Scalar) -> View {
    View {
        umin: s.umin32.into(),
        umax: s.umax32.into(),
        smin: s.smin32.into(),
        smax: s.smax32.into(),
    }
}

type Bounds = ((u64, u64), (i64, i64));

/// The bounds of `a op b` in the width given by its extreme values.
fn bounds(op: u8, a: &View, b: &View, top: u64, bottom: i64, high: i64) -> Bounds {
    let any = ((0, top), (bottom, high));
    match op {
        BPF_ADD => (
            fit_unsigned((a.umin + b.umin) as i128, (a.umax + b.umax) as i128, top),
            fit_signed(a.smin + b.smin, a.smax + b.smax, bottom, high),
        ),
        BPF_SUB => (
            fit_unsigned(
                a.umin as i128 - b.umax as i128,
                a.umax as i128 - b.umin as i128,
                top,
            ),
            fit_signed(a.smin - b.smax, a.smax - b.smin, bottom, high),
        ),
        BPF_MUL => {
            // Two 64-bit numbers multiplied fit in u128, and signed in i128.
            let u = if a.umax * b.umax <= u128::from(top) {
                ((a.umin * b.umin) as u64, (a.umax * b.umax) as u64)
            } else {
                (0, top)
            };
            let corners = [
                a.smin * b.smin,
                a.smin * b.smax,
                a.smax * b.smin,
                a.smax * b.smax,
            ];
            let (mut low, mut most) = (corners[0], corners[0]);
            for c in corners {
                low = low.min(c);
                most = most.max(c);
            }
            (u, fit_signed(low, most, bottom, high))
        }
        BPF_AND => ((0, a.umax.min(b.umax) as u64), any.1),
        BPF_OR => ((a.umin.max(b.umin) as u64, top), any.1),
        _ => any,
    }
}

/// An interval of mathematical results as unsigned numbers modulo `top + 1`:
/// kept when all of it wraps equally often.
fn fit_unsigned(min: i128, max: i128, top: u64) -> (u64, u64) {
    let modulus = i128::from(top) + 1;
    if min.div_euclid(modulus) == max.div_euclid(modulus) {
        (
            min.rem_euclid(modulus) as u64,
            max.rem_euclid(modulus) as u64,
        )
    } else {
        (0, top)
    }
}

/// As [`fit_unsigned`], for signed numbers; an interval that wraps is given up.
fn fit_signed(min: i128, max: i128, bottom: i64, high: i64) -> (i64, i64) {
    if min >= i128::from(bottom) && max <= i128::from(high) {
        (min as i64, max as i64)
    } else {
        (bottom, high)
    }
}

/// Bits and 32-bit bounds of an operation whose low half depends on the low
/// halves only; the 64-bit bounds are left open.
fn both_halves(op: u8, dst: &Scalar, src: &Scalar) -> Scalar {
    let bits = match op {
        BPF_ADD => dst.bits.add(src.bits),
        BPF_SUB => dst.bits.sub(src.bits),
        BPF_MUL => dst.bits.mul(src.bits),
        BPF_AND => dst.bits.and(src.bits),
        BPF_OR => dst.bits.or(src.bits),
        BPF_XOR => dst.bits.xor(src.bits),
        _ => Tnum::UNKNOWN,
    };
    let (u, s) = bounds(
        op,
        &view32(dst),
        &view32(src),
        u64::from(u32::MAX),
        i64::from(i32::MIN),
        i64::from(i32::MAX),
    );
    Scalar {
        bits,
        umin32: u.0 as u32,
        umax32: u.1 as u32,
        smin32: s.0 as i32,
        smax32: s.1 as i32,
        ..Scalar::UNKNOWN
    }
}

fn shift64(op: u8, dst: &Scalar, by: u32) -> Scalar {
    let mut out = Scalar::UNKNOWN;
    match op {
        BPF_LSH => {
            out.bits = dst.bits.shl(by);
            if dst.umax <= u64::MAX >> by {
                out.umin = dst.umin << by;
                out.umax = dst.umax << by;
            }
            if dst.smin >= i64::MIN >> by && dst.smax <= i64::MAX >> by {
                out.smin = dst.smin << by;
                out.smax = dst.smax << by;
            } else if by == 32 {
                // The first half of clang's sign extension by two shifts.
                out.smin = i64::from(dst.smin32) << 32;
                out.smax = i64::from(dst.smax32) << 32;
            }
        }
        BPF_RSH => {
            out.bits = dst.bits.shr(by);
            out.umin = dst.umin >> by;
            out.umax = dst.umax >> by;
        }
        _ => {
            out.bits = dst.bits.sar(by);
            out.smin = dst.smin >> by;
            out.smax = dst.smax >> by;
        }
    }
    out.synced()
}

/// The low half of a 32-bit shift; the upper half is left open.
fn shift32(op: u8, dst: &Scalar, by: u32) -> Scalar {
    let mut out = Scalar::UNKNOWN;
    let low = dst.bits.subreg();
    match op {
        BPF_LSH => {
            out.bits = low.shl(by).subreg();
            if dst.umax32 <= u32::MAX >> by {
                out.umin32 = dst.umin32 << by;
                out.umax32 = dst.umax32 << by;
            }
        }
        BPF_RSH => {
            out.bits = low.shr(by);
            out.umin32 = dst.umin32 >> by;
            out.umax32 = dst.umax32 >> by;
        }
        _ => {
            out.bits = low.sar32(by);
            out.smin32 = dst.smin32 >> by;
            out.smax32 = dst.smax32 >> by;
        }
    }
    out
}

#[cfg(test)]
pub(super) mod tests;
