//! From an instruction to slots. Knows no text and no meaning.

use uapi::Insn;
use uapi::insn::*;

use super::numbers::{ALU_OPS, ATOMIC_OPS, CONDS};
use super::{Imm64, Op, Operand, Reg, Swap, Width};

impl Op {
    /// The instruction's one or two slots.
    pub fn encode(&self) -> (Insn, Option<Insn>) {
        if let Op::LoadImm { dst, imm } = *self {
            let (src, low, high) = match imm {
                Imm64::Value(v) => (0, v as i32, (v >> 32) as i32),
                Imm64::Map(id) => (BPF_PSEUDO_MAP_FD, id as i32, 0),
                Imm64::MapValue { map, offset } => {
                    (BPF_PSEUDO_MAP_VALUE, map as i32, offset as i32)
                }
                Imm64::Func(rel) => (BPF_PSEUDO_FUNC, rel, 0),
            };
            return (
                Insn::new(BPF_LD | BPF_IMM | BPF_DW, dst.0, src, 0, low),
                Some(Insn::new(0, 0, 0, 0, high)),
            );
        }
        (self.encode_one(), None)
    }

    fn encode_one(&self) -> Insn {
        match *self {
            Op::Alu {
                width,
                op,
                dst,
                src,
            } => {
                let (_, code, off) = row(&ALU_OPS, |r| r.0 == op);
                operands(class(width, BPF_ALU, BPF_ALU64) | code, dst, src, off)
            }
            Op::Neg { width, dst } => {
                Insn::new(class(width, BPF_ALU, BPF_ALU64) | BPF_NEG, dst.0, 0, 0, 0)
            }
            Op::MovSx {
                width,
                from,
                dst,
                src,
            } => {
                let code = class(width, BPF_ALU, BPF_ALU64) | BPF_MOV | BPF_X;
                Insn::new(code, dst.0, src.0, from.bits() as i16, 0)
            }
            Op::Swap { kind, size, dst } => {
                let code = match kind {
                    Swap::Le => BPF_ALU | BPF_END,
                    Swap::Be => BPF_ALU | BPF_END | BPF_X,
                    Swap::Always => BPF_ALU64 | BPF_END,
                };
                Insn::new(code, dst.0, 0, 0, size.bits() as i32)
            }
            Op::Load {
                size,
                signed,
                dst,
                addr,
            } => {
                let mode = if signed { BPF_MEMSX } else { BPF_MEM };
                Insn::new(
                    BPF_LDX | mode | size.code(),
                    dst.0,
                    addr.base.0,
                    addr.off,
                    0,
                )
            }
            Op::Store { size, addr, src } => {
                let code = BPF_MEM | size.code();
                match src {
                    Operand::Reg(src) => Insn::new(BPF_STX | code, addr.base.0, src.0, addr.off, 0),
                    Operand::Imm(imm) => Insn::new(BPF_ST | code, addr.base.0, 0, addr.off, imm),
                }
            }
            Op::Atomic {
                op,
                fetch,
                size,
                addr,
                src,
            } => {
                let (_, _, imm) = row(&ATOMIC_OPS, |r| r.0 == op && r.1 == fetch);
                Insn::new(
                    BPF_STX | BPF_ATOMIC | size.code(),
                    addr.base.0,
                    src.0,
                    addr.off,
                    imm,
                )
            }
            Op::LoadAcquire { size, dst, addr } => {
                let code = BPF_STX | BPF_ATOMIC | size.code();
                Insn::new(code, dst.0, addr.base.0, addr.off, BPF_LOAD_ACQ)
            }
            Op::StoreRelease { size, addr, src } => {
                let code = BPF_STX | BPF_ATOMIC | size.code();
                Insn::new(code, addr.base.0, src.0, addr.off, BPF_STORE_REL)
            }
            Op::LoadImm { .. } => unreachable!("encode() takes the two-slot form"),
            Op::Jump { rel, long: false } => Insn::new(BPF_JMP | BPF_JA, 0, 0, rel as i16, 0),
            Op::Jump { rel, long: true } => Insn::new(BPF_JMP32 | BPF_JA, 0, 0, 0, rel),
            Op::Branch {
                width,
                cond,
                dst,
                src,
                rel,
            } => {
                let (_, code) = row(&CONDS, |r| r.0 == cond);
                operands(class(width, BPF_JMP32, BPF_JMP) | code, dst, src, rel)
            }
            Op::MayGoto { rel } => Insn::new(BPF_JMP | BPF_JCOND, 0, 0, rel, 0),
            Op::CallKfunc { number } => {
                let src = BPF_PSEUDO_KFUNC_CALL;
                Insn::new(BPF_JMP | BPF_CALL, 0, src, 0, number as i32)
            }
            Op::CallHelper { id } => Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, id as i32),
            Op::CallSub { rel } => Insn::new(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, rel),
            Op::Exit => Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        }
    }
}

/// The row of a table that names every value of its enum.
fn row<T: Copy>(table: &[T], is: impl Fn(&T) -> bool) -> T {
    *table
        .iter()
        .find(|r| is(r))
        .expect("the tables name every operation")
}

fn class(width: Width, narrow: u8, wide: u8) -> u8 {
    match width {
        Width::W32 => narrow,
        Width::W64 => wide,
    }
}

fn operands(code: u8, dst: Reg, src: Operand, off: i16) -> Insn {
    match src {
        Operand::Reg(src) => Insn::new(code | BPF_X, dst.0, src.0, off, 0),
        Operand::Imm(imm) => Insn::new(code | BPF_K, dst.0, 0, off, imm),
    }
}
