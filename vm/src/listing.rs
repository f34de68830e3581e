//! One instruction as the kernel's verifier log and `bpftool prog dump xlated`
//! print it: `(7b) *(u64 *)(r10 -8) = r1`. Kernel: `print_bpf_insn`
//! (kernel/bpf/disasm.c, Linux 6.18). For text that can be assembled again see
//! [`crate::disasm`]. It knows no program beyond the instruction and its
//! second slot, so it prints what cannot run as well.

use std::fmt::{self, Display};

use uapi::Insn;
use uapi::insn::*;

use crate::helper::{kernel, kfunc};

/// An instruction that prints itself.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    /// The instruction.
    pub insn: Insn,
    /// The slot behind it, for `ld_imm64`.
    pub next: Option<Insn>,
}

impl Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let insn = self.insn;
        write!(f, "({:02x}) ", insn.code)?;
        match insn.class() {
            BPF_ALU | BPF_ALU64 => alu(f, insn),
            BPF_LD => self.load_immediate(f),
            BPF_LDX => load(f, insn),
            BPF_ST if insn.code & MODE == BPF_MEM => {
                write!(f, "{} = {}", cell(insn, insn.dst()), insn.imm)
            }
            BPF_STX if insn.code & MODE == BPF_MEM => {
                write!(f, "{} = r{}", cell(insn, insn.dst()), insn.src())
            }
            BPF_STX if insn.code & MODE == BPF_ATOMIC => atomic(f, insn),
            BPF_JMP | BPF_JMP32 => self.jump(f),
            _ => undefined(f),
        }
    }
}

const MODE: u8 = 0xe0;

/// The sign of an arithmetic operation, as `+=`.
pub(crate) const fn alu_sign(op: u8, signed: bool) -> Option<&'static str> {
    Some(match op {
        BPF_ADD => "+=",
        BPF_SUB => "-=",
        BPF_MUL => "*=",
        BPF_DIV if signed => "s/=",
        BPF_DIV => "/=",
        BPF_OR => "|=",
        BPF_AND => "&=",
        BPF_LSH => "<<=",
        BPF_RSH => ">>=",
        BPF_MOD if signed => "s%=",
        BPF_MOD => "%=",
        BPF_XOR => "^=",
        BPF_MOV => "=",
        BPF_ARSH => "s>>=",
        _ => return None,
    })
}

/// The sign of a comparison, as `s>`.
const fn compare_sign(op: u8) -> Option<&'static str> {
    Some(match op {
        BPF_JEQ => "==",
        BPF_JNE => "!=",
        BPF_JGT => ">",
        BPF_JGE => ">=",
        BPF_JLT => "<",
        BPF_JLE => "<=",
        BPF_JSET => "&",
        BPF_JSGT => "s>",
        BPF_JSGE => "s>=",
        BPF_JSLT => "s<",
        BPF_JSLE => "s<=",
        _ => return None,
    })
}

fn undefined(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("undefined")
}

/// `w` for 32-bit classes.
fn letter(insn: Insn) -> char {
    match insn.class() {
        BPF_ALU | BPF_JMP32 => 'w',
        _ => 'r',
    }
}

/// The type of a memory cell, as `u64`.
fn cell_type(insn: Insn, signed: bool) -> &'static str {
    match (insn.code & BPF_DW, signed) {
        (BPF_W, false) => "u32",
        (BPF_H, false) => "u16",
        (BPF_B, false) => "u8",
        (BPF_DW, false) => "u64",
        (BPF_W, true) => "s32",
        (BPF_H, true) => "s16",
        (BPF_B, true) => "s8",
        _ => "s64",
    }
}

/// `*(u64 *)(r10 -8)`.
fn cell(insn: Insn, base: u8) -> String {
    let signed = insn.code & MODE == BPF_MEMSX;
    format!("*({} *)(r{base} {:+})", cell_type(insn, signed), insn.off)
}

/// `(u64 *)(r10 -8)`: an address that an atomic takes.
fn place(insn: Insn, base: u8) -> String {
    format!("({} *)(r{base} {:+})", cell_type(insn, false), insn.off)
}

fn alu(f: &mut fmt::Formatter<'_>, insn: Insn) -> fmt::Result {
    let (w, dst) = (letter(insn), insn.dst());
    let op = insn.code & 0xf0;
    match op {
        BPF_END if insn.class() == BPF_ALU64 => write!(f, "r{dst} = bswap{} r{dst}", insn.imm),
        BPF_END => {
            let order = if insn.code & BPF_X != 0 { "be" } else { "le" };
            write!(f, "r{dst} = {order}{} r{dst}", insn.imm)
        }
        BPF_NEG => write!(f, "{w}{dst} = -{w}{dst}"),
        _ => {
            let Some(sign) = alu_sign(op, insn.off == 1) else {
                return undefined(f);
            };
            if insn.code & BPF_X == 0 {
                return write!(f, "{w}{dst} {sign} {}", insn.imm);
            }
            let cast = match insn.off {
                8 if op == BPF_MOV => "(s8)",
                16 if op == BPF_MOV => "(s16)",
                32 if op == BPF_MOV => "(s32)",
                _ => "",
            };
            write!(f, "{w}{dst} {sign} {cast}{w}{}", insn.src())
        }
    }
}

fn load(f: &mut fmt::Formatter<'_>, insn: Insn) -> fmt::Result {
    match insn.code & MODE {
        BPF_MEM | BPF_MEMSX => write!(f, "r{} = {}", insn.dst(), cell(insn, insn.src())),
        _ => undefined(f),
    }
}

fn atomic(f: &mut fmt::Formatter<'_>, insn: Insn) -> fmt::Result {
    let (dst, src) = (insn.dst(), insn.src());
    let bits = if insn.code & BPF_DW == BPF_DW {
        "64"
    } else {
        ""
    };
    let name = |imm: i32| match (imm & 0xf0) as u8 {
        BPF_ADD => Some("add"),
        BPF_OR => Some("or"),
        BPF_AND => Some("and"),
        BPF_XOR => Some("xor"),
        _ => None,
    };
    match insn.imm {
        BPF_LOAD_ACQ => write!(f, "r{dst} = load_acquire({})", place(insn, src)),
        BPF_STORE_REL => write!(f, "store_release({}, r{src})", place(insn, dst)),
        BPF_XCHG => write!(
            f,
            "r{src} = atomic{bits}_xchg({}, r{src})",
            place(insn, dst)
        ),
        BPF_CMPXCHG => write!(
            f,
            "r0 = atomic{bits}_cmpxchg({}, r0, r{src})",
            place(insn, dst)
        ),
        imm if !(0..0x100).contains(&imm) => undefined(f),
        imm => match (name(imm), imm & 0xf) {
            (Some(_), 0) => {
                let sign = alu_sign(imm as u8, false).unwrap_or("?");
                write!(f, "lock {} {sign} r{src}", cell(insn, dst))
            }
            (Some(name), BPF_FETCH) => write!(
                f,
                "r{src} = atomic{bits}_fetch_{name}({}, r{src})",
                place(insn, dst)
            ),
            _ => undefined(f),
        },
    }
}

impl Listed {
    fn load_immediate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let insn = self.insn;
        let kind = cell_type(insn, false);
        match insn.code & MODE {
            BPF_ABS => return write!(f, "r0 = *({kind} *)skb[{}]", insn.imm),
            BPF_IND => return write!(f, "r0 = *({kind} *)skb[r{} + {}]", insn.src(), insn.imm),
            BPF_IMM if insn.code & BPF_DW == BPF_DW => {}
            _ => return undefined(f),
        }
        let high = self.next.map_or(0, |next| next.imm);
        let (dst, low) = (insn.dst(), insn.imm);
        match insn.src() {
            BPF_PSEUDO_MAP_FD | BPF_PSEUDO_MAP_IDX => write!(f, "r{dst} = map[id:{low}]"),
            BPF_PSEUDO_MAP_VALUE | BPF_PSEUDO_MAP_IDX_VALUE => {
                write!(f, "r{dst} = map[id:{low}][0]+{high}")
            }
            BPF_PSEUDO_FUNC => write!(f, "r{dst} = subprog[{low:+}]"),
            _ => {
                let n = u64::from(low as u32) | (u64::from(high as u32) << 32);
                write!(f, "r{dst} = {n:#x}")
            }
        }
    }

    fn jump(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let insn = self.insn;
        let (w, dst, off) = (letter(insn), insn.dst(), insn.off);
        let op = insn.code & 0xf0;
        match op {
            BPF_CALL => self.call(f),
            BPF_EXIT if insn.class() == BPF_JMP => f.write_str("exit"),
            BPF_JA if insn.class() == BPF_JMP => write!(f, "goto pc{off:+}"),
            BPF_JA => write!(f, "gotol pc{:+}", insn.imm),
            BPF_JCOND if insn.class() == BPF_JMP => write!(f, "may_goto pc{off:+}"),
            _ => match compare_sign(op) {
                None => undefined(f),
                Some(sign) if insn.code & BPF_X != 0 => {
                    write!(f, "if {w}{dst} {sign} {w}{} goto pc{off:+}", insn.src())
                }
                Some(sign) => write!(f, "if {w}{dst} {sign} {:#x} goto pc{off:+}", insn.imm),
            },
        }
    }

    fn call(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (insn, id) = (self.insn, self.insn.imm);
        match insn.src() {
            BPF_PSEUDO_CALL => write!(f, "call pc{id:+}"),
            BPF_PSEUDO_KFUNC_CALL => match kfunc::lookup(id as u32) {
                Some(row) => write!(f, "call {}#{id}", row.name),
                None => write!(f, "call kernel-function#{id}"),
            },
            _ => match kernel::find(id as u32, 0) {
                Some(row) => write!(f, "call bpf_{}#{id}", row.proto.name),
                None => write!(f, "call unknown#{id}"),
            },
        }
    }
}
