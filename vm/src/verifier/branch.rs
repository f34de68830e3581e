//! What a conditional jump tells about the numbers it compares. It knows no
//! registers and no pointers.

use uapi::insn::*;

use super::range::Scalar;

/// Whether `a op b` holds: `None` when it may and may not.
pub(super) fn decide(op: u8, a: &Scalar, b: &Scalar, is32: bool) -> Option<bool> {
    let (au, bu, asg, bsg) = if is32 {
        (
            (u64::from(a.umin32), u64::from(a.umax32)),
            (u64::from(b.umin32), u64::from(b.umax32)),
            (i64::from(a.smin32), i64::from(a.smax32)),
            (i64::from(b.smin32), i64::from(b.smax32)),
        )
    } else {
        (
            (a.umin, a.umax),
            (b.umin, b.umax),
            (a.smin, a.smax),
            (b.smin, b.smax),
        )
    };
    let (abits, bbits) = if is32 {
        (a.bits.subreg(), b.bits.subreg())
    } else {
        (a.bits, b.bits)
    };
    match op {
        BPF_JEQ => {
            if abits.is_const() && abits == bbits {
                Some(true)
            } else if abits.intersect(bbits).is_none()
                || au.1 < bu.0
                || bu.1 < au.0
                || asg.1 < bsg.0
                || bsg.1 < asg.0
                // Numbers whose lower halves differ do, too.
                || a.umax32 < b.umin32
                || b.umax32 < a.umin32
                || a.smax32 < b.smin32
                || b.smax32 < a.smin32
            {
                Some(false)
            } else {
                None
            }
        }
        BPF_JNE => decide(BPF_JEQ, a, b, is32).map(|eq| !eq),
        BPF_JGT => above(au, bu),
        BPF_JLE => above(au, bu).map(|gt| !gt),
        BPF_JLT => above(bu, au),
        BPF_JGE => above(bu, au).map(|lt| !lt),
        BPF_JSGT => above(asg, bsg),
        BPF_JSLE => above(asg, bsg).map(|gt| !gt),
        BPF_JSLT => above(bsg, asg),
        BPF_JSGE => above(bsg, asg).map(|lt| !lt),
        BPF_JSET => {
            if abits.value & bbits.value != 0 {
                Some(true)
            } else if abits.max() & bbits.max() == 0 {
                Some(false)
            } else {
                None
            }
        }
        _ => None,
    }
}

/// Whether every number of `a` is above every number of `b`, or none is.
fn above<T: PartialOrd>(a: (T, T), b: (T, T)) -> Option<bool> {
    if a.0 > b.1 {
        Some(true)
    } else if a.1 <= b.0 {
        Some(false)
    } else {
        None
    }
}

/// Both operands where `a op b` is `holds`; `None` when that cannot be.
pub(super) fn refine(
    op: u8,
    a: &Scalar,
    b: &Scalar,
    is32: bool,
    holds: bool,
) -> Option<(Scalar, Scalar)> {
    if holds {
        return narrow(op, a, b, is32);
    }
    match opposite(op) {
        Some(op) => narrow(op, a, b, is32),
        None => clear_bits(a, b, is32).map(|a| (a, *b)),
    }
}

/// The comparison that holds exactly when `op` does not.
fn opposite(op: u8) -> Option<u8> {
    Some(match op {
        BPF_JEQ => BPF_JNE,
        BPF_JNE => BPF_JEQ,
        BPF_JGT => BPF_JLE,
        BPF_JLE => BPF_JGT,
        BPF_JGE => BPF_JLT,
        BPF_JLT => BPF_JGE,
        BPF_JSGT => BPF_JSLE,
        BPF_JSLE => BPF_JSGT,
        BPF_JSGE => BPF_JSLT,
        BPF_JSLT => BPF_JSGE,
        _ => return None,
    })
}

fn narrow(op: u8, a: &Scalar, b: &Scalar, is32: bool) -> Option<(Scalar, Scalar)> {
    match op {
        BPF_JEQ if is32 => equal32(a, b),
        BPF_JEQ => a.intersect(b).map(|both| (both, both)),
        BPF_JNE => Some((exclude(a, b, is32)?, exclude(b, a, is32)?)),
        BPF_JGT | BPF_JGE | BPF_JSGT | BPF_JSGE => {
            let strict = op == BPF_JGT || op == BPF_JSGT;
            let signed = op == BPF_JSGT || op == BPF_JSGE;
            order(b, a, strict, signed, is32).map(|(b, a)| (a, b))
        }
        BPF_JLT | BPF_JLE | BPF_JSLT | BPF_JSLE => {
            let strict = op == BPF_JLT || op == BPF_JSLT;
            let signed = op == BPF_JSLT || op == BPF_JSLE;
            order(a, b, strict, signed, is32)
        }
        BPF_JSET => {
            let mut out = *a;
            // Only one bit to test: it is set. More bits say nothing about each.
            let mask = if is32 { b.bits.subreg() } else { b.bits };
            if mask.is_const() && mask.value.is_power_of_two() {
                out.bits.value |= mask.value;
                out.bits.mask &= !mask.value;
            }
            out.sync().map(|a| (a, *b))
        }
        _ => Some((*a, *b)),
    }
}

fn equal32(a: &Scalar, b: &Scalar) -> Option<(Scalar, Scalar)> {
    let low = a.bits.subreg().intersect(b.bits.subreg())?;
    let join = |s: &Scalar| {
        Scalar {
            bits: s.bits.with_subreg(low),
            umin32: a.umin32.max(b.umin32),
            umax32: a.umax32.min(b.umax32),
            smin32: a.smin32.max(b.smin32),
            smax32: a.smax32.min(b.smax32),
            ..*s
        }
        .sync()
    };
    Some((join(a)?, join(b)?))
}

/// `a` without the one number that `b` is, where it lies on a bound of `a`.
fn exclude(a: &Scalar, b: &Scalar, is32: bool) -> Option<Scalar> {
    let mut out = *a;
    if is32 {
        let low = b.bits.subreg();
        if !low.is_const() {
            return Some(out);
        }
        let n = low.value as u32;
        if out.umin32 == n {
            out.umin32 = n.checked_add(1)?;
        }
        if out.umax32 == n {
            out.umax32 = n.checked_sub(1)?;
        }
        if out.smin32 == n as i32 {
            out.smin32 = (n as i32).checked_add(1)?;
        }
        if out.smax32 == n as i32 {
            out.smax32 = (n as i32).checked_sub(1)?;
        }
    } else {
        let Some(n) = b.as_const() else {
            return Some(out);
        };
        if out.umin == n {
            out.umin = n.checked_add(1)?;
        }
        if out.umax == n {
            out.umax = n.checked_sub(1)?;
        }
        if out.smin == n as i64 {
            out.smin = (n as i64).checked_add(1)?;
        }
        if out.smax == n as i64 {
            out.smax = (n as i64).checked_sub(1)?;
        }
    }
    out.sync()
}

/// `low < high` (or `<=`).
fn order(
    low: &Scalar,
    high: &Scalar,
    strict: bool,
    signed: bool,
    is32: bool,
) -> Option<(Scalar, Scalar)> {
    let (mut l, mut h) = (*low, *high);
    let step = u8::from(strict);
    match (signed, is32) {
        (false, false) => {
            l.umax = l.umax.min(high.umax.checked_sub(step.into())?);
            h.umin = h.umin.max(low.umin.checked_add(step.into())?);
        }
        (true, false) => {
            l.smax = l.smax.min(high.smax.checked_sub(step.into())?);
            h.smin = h.smin.max(low.smin.checked_add(step.into())?);
        }
        (false, true) => {
            l.umax32 = l.umax32.min(high.umax32.checked_sub(step.into())?);
            h.umin32 = h.umin32.max(low.umin32.checked_add(step.into())?);
        }
        (true, true) => {
            l.smax32 = l.smax32.min(high.smax32.checked_sub(step.into())?);
            h.smin32 = h.smin32.max(low.smin32.checked_add(step.into())?);
        }
    }
    Some((l.sync()?, h.sync()?))
}

/// `a & b == 0` with a constant `b`: those bits of `a` are 0.
fn clear_bits(a: &Scalar, b: &Scalar, is32: bool) -> Option<Scalar> {
    let mask = if is32 { b.bits.subreg() } else { b.bits };
    if !mask.is_const() {
        return Some(*a);
    }
    if a.bits.value & mask.value != 0 {
        return None;
    }
    let mut out = *a;
    out.bits.mask &= !mask.value;
    out.sync()
}

#[cfg(test)]
mod tests;
