//! Registers and stack as the kernel's log prints them (`print_verifier_state`,
//! kernel/bpf/log.c, Linux 6.18): `R0=scalar(umax=255,var_off=(0x0; 0xff))`.
//! It knows no instructions.

use std::fmt::Write;

use super::super::range::Scalar;
use super::super::state::{Byte, Frame, Kind, Reg, SLOT, Slot, State};
use super::super::tnum::Tnum;
use super::super::walk::Walk;

/// What of a frame is printed.
pub(in super::super) struct Selection {
    /// Bit n: register n.
    pub(in super::super) regs: u16,
    /// Bit n: stack slot n.
    pub(in super::super) slots: u64,
}

impl Selection {
    pub(in super::super) const ALL: Selection = Selection {
        regs: u16::MAX,
        slots: u64::MAX,
    };
}

/// ` R1=ctx() R10=fp0`, with ` frame1:` before it in callees.
pub(in super::super) fn frame(
    walk: &Walk,
    state: &State,
    depth: usize,
    what: &Selection,
) -> String {
    let Frame { regs, stack, .. } = &state.frames[depth];
    let mut text = String::new();
    if depth > 0 {
        text.push_str(&format!(" frame{depth}:"));
    }
    for (number, reg) in regs.iter().enumerate() {
        if reg.kind != Kind::NotInit && what.regs & (1 << number) != 0 {
            text.push_str(&format!(" R{number}={}", register(walk, depth, reg)));
        }
    }
    for (index, slot) in stack.iter().enumerate() {
        // An object is said once, at its first slot.
        if slot.is_object() && object(slot).is_none() {
            continue;
        }
        if *slot != Slot::MISC && what.slots & (1 << index) != 0 {
            let at = -(i64::from(SLOT) * (index as i64 + 1));
            text.push_str(&format!(" fp{at}={}", stack_slot(walk, depth, slot)));
        }
    }
    for (place, held) in state.refs.iter().enumerate() {
        text.push_str(if place == 0 { " refs=" } else { "," });
        text.push_str(&held.id.to_string());
    }
    text
}

/// The dynptr or iterator that begins in a slot.
fn object(slot: &Slot) -> Option<String> {
    let Reg {
        kind,
        id,
        owner,
        delta,
        ..
    } = slot.reg;
    match kind {
        Kind::DynPtr { to, first: true } if owner != 0 => Some(format!(
            "dynptr_{}(id={id},ref_id={owner},dynptr_id={id})",
            to.name()
        )),
        Kind::DynPtr { to, first: true } => {
            Some(format!("dynptr_{}(id={id},dynptr_id={id})", to.name()))
        }
        Kind::Iter { of, drained } if owner != 0 => Some(format!(
            "iter_{}(ref_id={owner},state={},depth={delta})",
            of.name(),
            if drained { "drained" } else { "active" },
        )),
        _ => None,
    }
}

/// The bytes above a spilled register, highest first, then the register.
fn stack_slot(walk: &Walk, depth: usize, slot: &Slot) -> String {
    if let Some(text) = object(slot) {
        return text;
    }
    let spilled = slot.spilled();
    let mut text: String = slot.bytes[spilled..]
        .iter()
        .rev()
        .map(|byte| match byte {
            Byte::Zero => '0',
            Byte::Spill => 'r',
            _ => 'm',
        })
        .collect();
    if spilled > 0 {
        text.push_str(&register(walk, depth, &slot.reg));
    }
    text
}

/// A register seen from the frame at `depth`.
pub(in super::super) fn register(walk: &Walk, depth: usize, reg: &Reg) -> String {
    let constant = reg.val.as_const();
    match (reg.kind, constant) {
        (Kind::Scalar, Some(n)) => return signed(n as i64),
        (Kind::Stack { frame }, n) => {
            let mut name = String::from("fp");
            if usize::from(frame) != depth {
                name.push_str(&format!("[{frame}]"));
            }
            return match n {
                Some(n) => name + &signed(n as i64),
                None => format!("{name}({})", ranges(&reg.val).join(",")),
            };
        }
        _ => {}
    }
    let mut parts = Vec::new();
    if reg.id != 0 {
        let delta = if reg.delta != 0 && reg.kind == Kind::Scalar {
            format!("{:+}", reg.delta)
        } else {
            String::new()
        };
        parts.push(format!("id={}{delta}", reg.id));
    }
    if let Kind::Packet { range, .. } = reg.kind {
        if reg.delta != 0 {
            parts.push(format!("off={}", reg.delta));
        }
        parts.push(format!("r={range}"));
    }
    parts.extend(walk.describe(reg.kind));
    match constant {
        Some(0) => {}
        Some(n) => parts.push(format!("off={}", signed(n as i64))),
        None => parts.extend(ranges(&reg.val)),
    }
    format!("{}({})", reg.kind.name(), parts.join(","))
}

/// Bounds that say something; equal ones share a line: `smin=smin32=0`.
fn ranges(val: &Scalar) -> Vec<String> {
    let signed32 = |n: i32| match i16::try_from(n) {
        Ok(small) => i64::from(small),
        Err(_) => i64::from(n as u32),
    };
    let bounds: [(&str, u64, bool); 8] = [
        ("smin", val.smin as u64, val.smin == i64::MIN),
        ("smax", val.smax as u64, val.smax == i64::MAX),
        ("umin", val.umin, val.umin == 0),
        ("umax", val.umax, val.umax == u64::MAX),
        (
            "smin32",
            signed32(val.smin32) as u64,
            val.smin32 == i32::MIN,
        ),
        (
            "smax32",
            signed32(val.smax32) as u64,
            val.smax32 == i32::MAX,
        ),
        ("umin32", val.umin32.into(), val.umin32 == 0),
        ("umax32", val.umax32.into(), val.umax32 == u32::MAX),
    ];
    let negative = |(name, n, _): (&str, u64, bool)| name.starts_with('s') && (n as i64) < 0;
    let mut said = bounds.map(|bound| bound.2);
    let mut parts = Vec::new();
    for place in 0..bounds.len() {
        if said[place] {
            continue;
        }
        let bound = bounds[place];
        let mut text = format!("{}=", bound.0);
        // Minima share with minima, maxima with maxima.
        for other in (place + 2..bounds.len()).step_by(2) {
            let same = bounds[other].1 == bound.1 && negative(bounds[other]) == negative(bound);
            if same && !said[other] {
                said[other] = true;
                let _ = write!(text, "{}=", bounds[other].0);
            }
        }
        text.push_str(&if bound.0.starts_with('s') {
            signed(bound.1 as i64)
        } else {
            unsigned(bound.1)
        });
        parts.push(text);
    }
    if val.bits != Tnum::UNKNOWN {
        parts.push(format!(
            "var_off=({:#x}; {:#x})",
            val.bits.value, val.bits.mask
        ));
    }
    parts
}

/// Decimal when it is short, as the kernel prints bounds.
fn unsigned(n: u64) -> String {
    match u16::try_from(n) {
        Ok(small) => small.to_string(),
        Err(_) => format!("{n:#x}"),
    }
}

fn signed(n: i64) -> String {
    match i16::try_from(n) {
        Ok(small) => small.to_string(),
        Err(_) => format!("{n:#x}"),
    }
}
