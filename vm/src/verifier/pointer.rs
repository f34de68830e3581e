//! Arithmetic with addresses. It knows no memory: whether an address may be
//! used is decided where it is used.

use uapi::insn::*;

use super::alu::alu64;
use super::range::Scalar;
use super::state::{Kind, Reg};
use super::{Fail, packet};
use crate::listing::alu_sign;

/// Offsets beyond this are refused (kernel: `BPF_MAX_VAR_OFF`).
const MAX_OFFSET: i64 = 1 << 29;

/// `dst op src` where at least one is a pointer; `number` is dst's, `new_id`
/// one that no register has, for a pointer into a packet.
pub(super) fn arithmetic(
    op: u8,
    is64: bool,
    number: u8,
    dst: &Reg,
    src: &Reg,
    new_id: u32,
) -> Result<Reg, Fail> {
    if dst.kind.is_pointer() && src.kind.is_pointer() {
        // The distance of two addresses is a number like any other.
        if op == BPF_SUB {
            let bytes = if is64 { 8 } else { 4 };
            return Ok(Reg::scalar(Scalar::unknown_bytes(bytes)));
        }
        let text = format!("R{number} pointer {} pointer prohibited", sign(op));
        return Err(Fail::eacces(text));
    }
    let (pointer, number_side) = if dst.kind.is_pointer() {
        (dst, src)
    } else {
        (src, dst)
    };
    let kind = pointer.kind;
    if !is64 && op == BPF_SUB {
        return Ok(Reg::scalar(Scalar::unknown_bytes(4)));
    }
    if !is64 {
        let text = format!("R{number} 32-bit pointer arithmetic prohibited");
        return Err(Fail::eacces(text));
    }
    if kind.or_null() {
        let text = format!(
            "R{number} pointer arithmetic on {} prohibited, null-check it first",
            kind.name()
        );
        return Err(Fail::eacces(text).hint("compare the pointer with NULL before adding to it"));
    }
    let stays =
        matches!(kind, Kind::Map { .. }) && op == BPF_ADD && number_side.val.as_const() == Some(0);
    if !stays && matches!(kind, Kind::Map { .. } | Kind::PacketEnd | Kind::Sock { .. }) {
        let text = format!("R{number} pointer arithmetic on {} prohibited", kind.name());
        return Err(Fail::eacces(text));
    }
    check_offset(kind, &number_side.val)?;
    match op {
        BPF_ADD => {}
        BPF_SUB if !dst.kind.is_pointer() => {
            let text = format!("R{number} tried to subtract pointer from scalar");
            return Err(Fail::eacces(text));
        }
        BPF_SUB if matches!(kind, Kind::Stack { .. }) => {
            let text = format!("R{number} subtraction from stack pointer prohibited");
            return Err(Fail::eacces(text));
        }
        BPF_SUB => {}
        BPF_AND | BPF_OR | BPF_XOR => {
            let text = format!(
                "R{number} bitwise operator {} on pointer prohibited",
                sign(op)
            );
            return Err(Fail::eacces(text));
        }
        _ => {
            let text = format!(
                "R{number} pointer arithmetic with {} operator prohibited",
                sign(op)
            );
            return Err(Fail::eacces(text));
        }
    }
    if let Kind::Packet { .. } = kind {
        let moved = packet::moved(op, pointer, &number_side.val, new_id);
        check_offset(kind, &Scalar::known(moved.delta as u64))?;
        check_offset(kind, &moved.val)?;
        return Ok(moved);
    }
    let val = alu64(op, &pointer.val, &number_side.val);
    check_offset(kind, &val)?;
    Ok(Reg { val, ..*pointer })
}

fn check_offset(kind: Kind, val: &Scalar) -> Result<(), Fail> {
    let name = kind.name();
    let text = match val.as_const() {
        Some(n) if (n as i64) >= MAX_OFFSET || (n as i64) <= -MAX_OFFSET => {
            format!(
                "math between {name} pointer and {} is not allowed",
                n as i64
            )
        }
        Some(_) => return Ok(()),
        None if val.smin == i64::MIN => format!(
            "math between {name} pointer and register with unbounded min value is not allowed"
        ),
        None if val.smin >= MAX_OFFSET || val.smin <= -MAX_OFFSET => {
            format!("value {} makes {name} pointer be out of bounds", val.smin)
        }
        None => return Ok(()),
    };
    Err(Fail::einval(text)
        .hint("bound the number from below and above, or mask it with `&`, before adding it"))
}

fn sign(op: u8) -> &'static str {
    alu_sign(op, false).unwrap_or("op=")
}
