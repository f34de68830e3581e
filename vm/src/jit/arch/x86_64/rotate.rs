//! Pairs of shifts: left and right of the same value joined are a rotation,
//! left and back is an extension. A shift by a constant waits for its other
//! half. Knows what pairs mean.

use super::Compiler;
use super::encode::{Gpr, Shift};
use super::values::{Sum, Value, machine};
use crate::op::{AluOp, Operand, Reg, Size, Width};

/// A shift that is waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Half {
    of: Reg,
    op: Shift,
    count: u8,
    width: Width,
}

impl Compiler<'_> {
    /// The shift that `reg` stands for, also if it is put as a sum.
    fn half(&self, reg: Reg) -> Option<Half> {
        match self.values.get(reg)? {
            Value::Shifted {
                of,
                op,
                count,
                width,
            } => Some(Half {
                of,
                op,
                count,
                width,
            }),
            Value::Sum(Sum {
                base: None,
                index: Some((of, count)),
                disp: 0,
                width,
            }) => Some(Half {
                of,
                op: Shift::Shl,
                count,
                width,
            }),
            _ => None,
        }
    }

    /// `dst <<= imm` or `dst >>= imm`, if it may wait or is the second half
    /// of an extension.
    pub(super) fn half_shift(&mut self, width: Width, op: AluOp, dst: Reg, imm: i32) -> bool {
        let bits = match width {
            Width::W32 => 32,
            Width::W64 => 64,
        };
        let count = imm as u8 & (bits - 1);
        if !self.optimisations.rotates || count == 0 {
            return false;
        }
        if let Some(half) = self.half(dst) {
            let back = half.op == Shift::Shl && half.count == count && half.width == width;
            return back && op != AluOp::Lsh && self.extend(width, op, dst, half.of, bits - count);
        }
        let op = match op {
            AluOp::Lsh => Shift::Shl,
            AluOp::Rsh => Shift::Shr,
            _ => return false,
        };
        self.prepare(dst, width);
        let of = self.copied(dst, width).unwrap_or(dst);
        self.defer(
            dst,
            Value::Shifted {
                of,
                op,
                count,
                width,
            },
        );
        true
    }

    /// `dst` = the low `bits` of `of`, with their sign if `op` is signed.
    fn extend(&mut self, width: Width, op: AluOp, dst: Reg, of: Reg, bits: u8) -> bool {
        let size = match bits {
            8 => Size::B,
            16 => Size::H,
            32 => Size::W,
            _ => return false,
        };
        let signed = op == AluOp::Arsh;
        if size == Size::W && !signed {
            let sum = Sum {
                width: Width::W32,
                ..Sum::of(of)
            };
            self.defer(dst, Value::Sum(sum));
            return true;
        }
        let dst = self.overwrite(dst);
        if signed {
            self.asm().sign_extend(width, size, dst, machine(of));
        } else {
            self.asm().zero_extend(size, dst, machine(of));
        }
        true
    }

    /// `dst = dst op src` if that joins both halves of a rotation.
    pub(super) fn rotate(&mut self, width: Width, dst: Reg, src: Operand) -> bool {
        let Operand::Reg(src) = src else { return false };
        if !self.optimisations.rotates || src == dst {
            return false;
        }
        let (Some(a), Some(b)) = (self.half(dst), self.half(src)) else {
            return false;
        };
        let (left, right) = match (a.op, b.op) {
            (Shift::Shl, Shift::Shr) => (a, b),
            (Shift::Shr, Shift::Shl) => (b, a),
            _ => return false,
        };
        let bits = match left.width {
            Width::W32 => 32,
            Width::W64 => 64,
        };
        let pair = left.of == right.of && left.width == right.width;
        if !pair || left.count + right.count != bits || width == Width::W32 && bits == 64 {
            return false;
        }
        if self.dies(src) {
            self.values.forget(src);
        }
        // `dst` is described by `of` still, so that no circle can change it.
        let to = self.overwrite(dst);
        self.rotate_right(left.width, to, machine(left.of), right.count);
        true
    }

    fn rotate_right(&mut self, width: Width, dst: Gpr, src: Gpr, count: u8) {
        if self.bmi2() {
            return self.asm().rotate_right(width, dst, src, count);
        }
        if dst != src {
            self.asm().mov(width, dst, src);
        }
        let left = match width {
            Width::W32 => 32 - count,
            Width::W64 => 64 - count,
        };
        self.asm().shift_imm(Shift::Rol, width, dst, left);
    }
}
