//! An instruction with its fields taken apart and checked: what assembler,
//! disassembler and both engines share, so that opcode bits are read in one
//! place. It knows no program, only one instruction at a time.
//!
//! Reading order: this file is what instructions there are, `numbers` their
//! numbers, `decode` and `encode` the way between.

mod decode;
mod encode;
mod numbers;

use uapi::insn::{BPF_B, BPF_DW, BPF_H, BPF_W};

pub use decode::DecodeError;

/// A register number, 0 to 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reg(u8);

impl Reg {
    /// Return value of calls and of the program.
    pub const R0: Reg = Reg(0);
    /// The frame pointer; read-only.
    pub const R10: Reg = Reg(10);

    /// The register of that number, if there is one.
    pub const fn new(number: u8) -> Option<Reg> {
        if number <= 10 {
            Some(Reg(number))
        } else {
            None
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// How many bits of the registers an operation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// The lower half; the upper half of the result is zero.
    W32,
    /// All of it.
    W64,
}

/// Bytes a memory access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 1 byte.
    B,
    /// 2 bytes.
    H,
    /// 4 bytes.
    W,
    /// 8 bytes.
    DW,
}

impl Size {
    /// Number of bits.
    pub const fn bits(self) -> u32 {
        match self {
            Size::B => 8,
            Size::H => 16,
            Size::W => 32,
            Size::DW => 64,
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Size::B => BPF_B,
            Size::H => BPF_H,
            Size::W => BPF_W,
            Size::DW => BPF_DW,
        }
    }

    const fn from_code(code: u8) -> Size {
        match code & 0x18 {
            BPF_B => Size::B,
            BPF_H => Size::H,
            BPF_W => Size::W,
            _ => Size::DW,
        }
    }
}

/// The second operand of arithmetic, branches and stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Reg(Reg),
    /// An immediate, sign-extended where 64 bits are needed.
    Imm(i32),
}

/// Two-operand arithmetic.
#[expect(missing_docs, reason = "the names are the instruction set's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AluOp {
    Add,
    Sub,
    Mul,
    Div,
    Sdiv,
    Or,
    And,
    Lsh,
    Rsh,
    Arsh,
    Mod,
    Smod,
    Xor,
    Mov,
}

/// What a branch tests; `S…` compares as signed numbers.
#[expect(missing_docs, reason = "the names are the instruction set's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cond {
    Eq,
    Ne,
    Gt,
    Ge,
    Lt,
    Le,
    Set,
    Sgt,
    Sge,
    Slt,
    Sle,
}

/// Byte order operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// To little endian: truncates on this host.
    Le,
    /// To big endian: swaps on this host.
    Be,
    /// Swaps always.
    Always,
}

/// Atomic read-modify-write operations.
#[expect(missing_docs, reason = "the names are the instruction set's")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicOp {
    Add,
    Or,
    And,
    Xor,
    Xchg,
    /// Compares with r0, loads the old value into r0.
    CmpXchg,
}

/// What `ld_imm64` loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imm64 {
    /// A number.
    Value(u64),
    /// A map, by object id.
    Map(u32),
    /// An address in the value area of an array map.
    MapValue {
        /// Object id of the map.
        map: u32,
        /// Bytes into the value area.
        offset: u32,
    },
    /// A subprogram of this program, relative to the next slot.
    Func(i32),
}

/// A memory operand: register plus offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The register that holds an address.
    pub base: Reg,
    /// Bytes added to it.
    pub off: i16,
}

/// One instruction. Relative targets count slots from the next slot.
#[expect(
    missing_docs,
    reason = "fields are the operands, named alike throughout"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `dst = dst op src`.
    Alu {
        width: Width,
        op: AluOp,
        dst: Reg,
        src: Operand,
    },
    /// `dst = -dst`.
    Neg { width: Width, dst: Reg },
    /// `dst = src` sign-extended from 8, 16 or 32 bits to the width.
    MovSx {
        width: Width,
        from: Size,
        dst: Reg,
        src: Reg,
    },
    /// `dst` in another byte order, of which 16, 32 or 64 bits remain.
    Swap { kind: Swap, size: Size, dst: Reg },
    /// `dst = *(size *)addr`, zero- or sign-extended to 64 bits.
    Load {
        size: Size,
        signed: bool,
        dst: Reg,
        addr: Address,
    },
    /// `*(size *)addr = src`.
    Store {
        size: Size,
        addr: Address,
        src: Operand,
    },
    /// Atomic read-modify-write of a word or double word, fully ordered.
    Atomic {
        op: AtomicOp,
        fetch: bool,
        size: Size,
        addr: Address,
        src: Reg,
    },
    /// `dst = *(size *)addr` with acquire order.
    LoadAcquire { size: Size, dst: Reg, addr: Address },
    /// `*(size *)addr = src` with release order.
    StoreRelease { size: Size, addr: Address, src: Reg },
    /// `dst = imm64`; two slots.
    LoadImm { dst: Reg, imm: Imm64 },
    /// Unconditional jump; `long` is the form with a 32-bit offset.
    Jump { rel: i32, long: bool },
    /// Jump if `dst cond src`.
    Branch {
        width: Width,
        cond: Cond,
        dst: Reg,
        src: Operand,
        rel: i16,
    },
    /// Go on while the frame's budget of [`uapi::insn::BPF_MAX_LOOPS`] lasts;
    /// jump when it is spent.
    MayGoto { rel: i16 },
    /// Call of a helper by id.
    CallHelper { id: u32 },
    /// Call of a kfunc, by the number that [`crate::helper::kfunc`] gives it.
    CallKfunc { number: u32 },
    /// Call of a subprogram.
    CallSub { rel: i32 },
    /// Return r0 to the caller.
    Exit,
}

impl Op {
    /// Slots the instruction takes: 2 for `ld_imm64`, else 1.
    pub const fn slots(&self) -> usize {
        match self {
            Op::LoadImm { .. } => 2,
            _ => 1,
        }
    }
}
