//! What arithmetic, byte swaps and comparisons mean (RFC 9669, section 4).
//! Knows values only.

use crate::op::{AluOp, Cond, Operand, Size, Swap, Width};

use super::Registers;

impl Registers {
    /// A second operand as 64 bits.
    pub(super) fn second(&self, operand: Operand) -> u64 {
        match operand {
            Operand::Reg(reg) => self.get(reg),
            Operand::Imm(imm) => imm as i64 as u64,
        }
    }

    /// The argument registers.
    pub(super) fn args(&self) -> [u64; 5] {
        [self.0[1], self.0[2], self.0[3], self.0[4], self.0[5]]
    }
}

/// `a op b` at a width.
pub(super) fn binary(op: AluOp, width: Width, a: u64, b: u64) -> u64 {
    match width {
        Width::W64 => binary64(op, a, b),
        Width::W32 => binary32(op, a as u32, b as u32).into(),
    }
}

/// Division by zero gives 0 and the remainder by zero the dividend; the
/// quotient that does not fit wraps; shifts use the low bits of the count.
fn binary64(op: AluOp, a: u64, b: u64) -> u64 {
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Sdiv if b == 0 => 0,
        AluOp::Sdiv => (a as i64).wrapping_div(b as i64) as u64,
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::Smod if b == 0 => a,
        AluOp::Smod => (a as i64).wrapping_rem(b as i64) as u64,
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Mov => b,
        AluOp::Lsh => a.wrapping_shl(b as u32),
        AluOp::Rsh => a.wrapping_shr(b as u32),
        AluOp::Arsh => (a as i64).wrapping_shr(b as u32) as u64,
    }
}

fn binary32(op: AluOp, a: u32, b: u32) -> u32 {
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Sdiv if b == 0 => 0,
        AluOp::Sdiv => (a as i32).wrapping_div(b as i32) as u32,
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::Smod if b == 0 => a,
        AluOp::Smod => (a as i32).wrapping_rem(b as i32) as u32,
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Mov => b,
        AluOp::Lsh => a.wrapping_shl(b),
        AluOp::Rsh => a.wrapping_shr(b),
        AluOp::Arsh => (a as i32).wrapping_shr(b) as u32,
    }
}

/// `-a` at a width.
pub(super) fn negate(width: Width, a: u64) -> u64 {
    match width {
        Width::W64 => a.wrapping_neg(),
        Width::W32 => (a as u32).wrapping_neg().into(),
    }
}

/// The low bits of `a` sign-extended to a width; the rest is zero.
pub(super) fn extend(width: Width, from: Size, a: u64) -> u64 {
    let extended = match from {
        Size::B => a as i8 as i64,
        Size::H => a as i16 as i64,
        Size::W => a as i32 as i64,
        Size::DW => a as i64,
    } as u64;
    match width {
        Width::W64 => extended,
        Width::W32 => u64::from(extended as u32),
    }
}

/// The low bits of `a` in another byte order; the rest is zero.
pub(super) fn swap(kind: Swap, size: Size, a: u64) -> u64 {
    let swaps = match kind {
        Swap::Le => cfg!(target_endian = "big"),
        Swap::Be => cfg!(target_endian = "little"),
        Swap::Always => true,
    };
    match (size, swaps) {
        (Size::B, _) => u64::from(a as u8),
        (Size::H, false) => u64::from(a as u16),
        (Size::W, false) => u64::from(a as u32),
        (Size::DW, false) => a,
        (Size::H, true) => u64::from((a as u16).swap_bytes()),
        (Size::W, true) => u64::from((a as u32).swap_bytes()),
        (Size::DW, true) => a.swap_bytes(),
    }
}

/// Whether `a cond b` holds at a width.
pub(super) fn holds(cond: Cond, width: Width, a: u64, b: u64) -> bool {
    let (a, b) = match width {
        Width::W64 => (a, b),
        // Sign-extended, 32-bit numbers compare alike in both orders.
        Width::W32 => (a as i32 as u64, b as i32 as u64),
    };
    let (signed_a, signed_b) = (a as i64, b as i64);
    match cond {
        Cond::Eq => a == b,
        Cond::Ne => a != b,
        Cond::Gt => a > b,
        Cond::Ge => a >= b,
        Cond::Lt => a < b,
        Cond::Le => a <= b,
        Cond::Set => a & b != 0,
        Cond::Sgt => signed_a > signed_b,
        Cond::Sge => signed_a >= signed_b,
        Cond::Slt => signed_a < signed_b,
        Cond::Sle => signed_a <= signed_b,
    }
}
