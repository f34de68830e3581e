//! The eBPF instruction word and the numbers of its fields (RFC 9669).
//! It knows no meaning of an instruction; that is `vm`'s.

/// One 8-byte instruction slot, in memory order (little-endian hosts).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Insn {
    /// Operation code.
    pub code: u8,
    /// Destination register in the low, source register in the high four bits.
    pub regs: u8,
    /// Signed offset.
    pub off: i16,
    /// Signed immediate.
    pub imm: i32,
}

impl Insn {
    /// An instruction from its fields; `dst` and `src` use their low four bits.
    pub const fn new(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
        Insn {
            code,
            regs: (dst & 0xf) | (src << 4),
            off,
            imm,
        }
    }

    /// The destination register number.
    pub const fn dst(self) -> u8 {
        self.regs & 0xf
    }

    /// The source register number.
    pub const fn src(self) -> u8 {
        self.regs >> 4
    }

    /// The instruction class (`BPF_LD` … `BPF_ALU64`).
    pub const fn class(self) -> u8 {
        self.code & 0x07
    }

    /// The eight bytes as the kernel stores them.
    pub const fn to_bytes(self) -> [u8; 8] {
        let [o0, o1] = self.off.to_le_bytes();
        let [i0, i1, i2, i3] = self.imm.to_le_bytes();
        [self.code, self.regs, o0, o1, i0, i1, i2, i3]
    }

    /// The instruction that eight bytes hold.
    pub const fn from_bytes(b: [u8; 8]) -> Insn {
        Insn {
            code: b[0],
            regs: b[1],
            off: i16::from_le_bytes([b[2], b[3]]),
            imm: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
        }
    }
}

/// Kernel spelling of opcode fields.
#[expect(missing_docs, reason = "the names are the kernel's")]
mod numbers {
    // Classes.
    pub const BPF_LD: u8 = 0x00;
    pub const BPF_LDX: u8 = 0x01;
    pub const BPF_ST: u8 = 0x02;
    pub const BPF_STX: u8 = 0x03;
    pub const BPF_ALU: u8 = 0x04;
    pub const BPF_JMP: u8 = 0x05;
    pub const BPF_JMP32: u8 = 0x06;
    pub const BPF_ALU64: u8 = 0x07;
    // Sizes.
    pub const BPF_W: u8 = 0x00;
    pub const BPF_H: u8 = 0x08;
    pub const BPF_B: u8 = 0x10;
    pub const BPF_DW: u8 = 0x18;
    // Modes.
    pub const BPF_IMM: u8 = 0x00;
    pub const BPF_ABS: u8 = 0x20;
    pub const BPF_IND: u8 = 0x40;
    pub const BPF_MEM: u8 = 0x60;
    pub const BPF_MEMSX: u8 = 0x80;
    pub const BPF_ATOMIC: u8 = 0xc0;
    // Source operand.
    pub const BPF_K: u8 = 0x00;
    pub const BPF_X: u8 = 0x08;
    // Arithmetic.
    pub const BPF_ADD: u8 = 0x00;
    pub const BPF_SUB: u8 = 0x10;
    pub const BPF_MUL: u8 = 0x20;
    pub const BPF_DIV: u8 = 0x30;
    pub const BPF_OR: u8 = 0x40;
    pub const BPF_AND: u8 = 0x50;
    pub const BPF_LSH: u8 = 0x60;
    pub const BPF_RSH: u8 = 0x70;
    pub const BPF_NEG: u8 = 0x80;
    pub const BPF_MOD: u8 = 0x90;
    pub const BPF_XOR: u8 = 0xa0;
    pub const BPF_MOV: u8 = 0xb0;
    pub const BPF_ARSH: u8 = 0xc0;
    pub const BPF_END: u8 = 0xd0;
    // Jumps.
    pub const BPF_JA: u8 = 0x00;
    pub const BPF_JEQ: u8 = 0x10;
    pub const BPF_JGT: u8 = 0x20;
    pub const BPF_JGE: u8 = 0x30;
    pub const BPF_JSET: u8 = 0x40;
    pub const BPF_JNE: u8 = 0x50;
    pub const BPF_JSGT: u8 = 0x60;
    pub const BPF_JSGE: u8 = 0x70;
    pub const BPF_CALL: u8 = 0x80;
    pub const BPF_EXIT: u8 = 0x90;
    pub const BPF_JLT: u8 = 0xa0;
    pub const BPF_JLE: u8 = 0xb0;
    pub const BPF_JSLT: u8 = 0xc0;
    pub const BPF_JSLE: u8 = 0xd0;
    pub const BPF_JCOND: u8 = 0xe0;
    // Atomic operations (imm).
    pub const BPF_FETCH: i32 = 0x01;
    pub const BPF_XCHG: i32 = 0xe0 | BPF_FETCH;
    pub const BPF_CMPXCHG: i32 = 0xf0 | BPF_FETCH;
    pub const BPF_LOAD_ACQ: i32 = 0x100;
    pub const BPF_STORE_REL: i32 = 0x110;
    // Pseudo source registers of ld_imm64 and call.
    pub const BPF_PSEUDO_MAP_FD: u8 = 1;
    pub const BPF_PSEUDO_MAP_VALUE: u8 = 2;
    pub const BPF_PSEUDO_BTF_ID: u8 = 3;
    pub const BPF_PSEUDO_FUNC: u8 = 4;
    pub const BPF_PSEUDO_MAP_IDX: u8 = 5;
    pub const BPF_PSEUDO_MAP_IDX_VALUE: u8 = 6;
    pub const BPF_PSEUDO_CALL: u8 = 1;
    pub const BPF_PSEUDO_KFUNC_CALL: u8 = 2;
    // Limits (include/linux/filter.h, bpf_verifier.h).
    pub const MAX_BPF_STACK: u32 = 512;
    pub const MAX_CALL_FRAMES: u32 = 8;
    pub const MAX_TAIL_CALL_CNT: u32 = 33;
    pub const BPF_MAX_LOOPS: u32 = 8 << 20;
    pub const BPF_COMPLEXITY_LIMIT_INSNS: u32 = 1_000_000;
}
pub use numbers::*;
