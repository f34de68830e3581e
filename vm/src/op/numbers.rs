//! The numbers of operations in opcodes and immediates. Knows no operand.

use uapi::insn::*;

use super::{AluOp, AtomicOp, Cond};

/// Operation, bits of the opcode, and the offset that tells signed from unsigned.
pub(super) const ALU_OPS: [(AluOp, u8, i16); 14] = [
    (AluOp::Add, BPF_ADD, 0),
    (AluOp::Sub, BPF_SUB, 0),
    (AluOp::Mul, BPF_MUL, 0),
    (AluOp::Div, BPF_DIV, 0),
    (AluOp::Sdiv, BPF_DIV, 1),
    (AluOp::Or, BPF_OR, 0),
    (AluOp::And, BPF_AND, 0),
    (AluOp::Lsh, BPF_LSH, 0),
    (AluOp::Rsh, BPF_RSH, 0),
    (AluOp::Arsh, BPF_ARSH, 0),
    (AluOp::Mod, BPF_MOD, 0),
    (AluOp::Smod, BPF_MOD, 1),
    (AluOp::Xor, BPF_XOR, 0),
    (AluOp::Mov, BPF_MOV, 0),
];

/// Condition and bits of the opcode.
pub(super) const CONDS: [(Cond, u8); 11] = [
    (Cond::Eq, BPF_JEQ),
    (Cond::Ne, BPF_JNE),
    (Cond::Gt, BPF_JGT),
    (Cond::Ge, BPF_JGE),
    (Cond::Lt, BPF_JLT),
    (Cond::Le, BPF_JLE),
    (Cond::Set, BPF_JSET),
    (Cond::Sgt, BPF_JSGT),
    (Cond::Sge, BPF_JSGE),
    (Cond::Slt, BPF_JSLT),
    (Cond::Sle, BPF_JSLE),
];

/// Operation, whether it fetches, and the number in the immediate.
pub(super) const ATOMIC_OPS: [(AtomicOp, bool, i32); 10] = [
    (AtomicOp::Add, false, BPF_ADD as i32),
    (AtomicOp::Or, false, BPF_OR as i32),
    (AtomicOp::And, false, BPF_AND as i32),
    (AtomicOp::Xor, false, BPF_XOR as i32),
    (AtomicOp::Add, true, BPF_ADD as i32 | BPF_FETCH),
    (AtomicOp::Or, true, BPF_OR as i32 | BPF_FETCH),
    (AtomicOp::And, true, BPF_AND as i32 | BPF_FETCH),
    (AtomicOp::Xor, true, BPF_XOR as i32 | BPF_FETCH),
    (AtomicOp::Xchg, true, BPF_XCHG),
    (AtomicOp::CmpXchg, true, BPF_CMPXCHG),
];
