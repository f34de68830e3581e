//! From slots to an instruction. Knows no text and no meaning.

use uapi::Insn;
use uapi::insn::*;

use super::numbers::{ALU_OPS, ATOMIC_OPS, CONDS};
use super::{Address, AtomicOp, Imm64, Op, Operand, Reg, Size, Swap, Width};

/// Why eight bytes are not an instruction this machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No such operation, or one that only a kernel can host.
    #[error("unknown opcode {0:#04x}")]
    Opcode(u8),
    /// A register above r10.
    #[error("register above r10")]
    Register,
    /// r10 would be written.
    #[error("r10 is read-only")]
    FramePointer,
    /// A field that this operation does not use is not zero.
    #[error("reserved field is not zero")]
    Reserved,
    /// The second slot of `ld_imm64` is missing or not empty.
    #[error("incomplete ld_imm64")]
    Incomplete,
}

use DecodeError::{Incomplete, Opcode, Register, Reserved};

impl Op {
    /// Decodes `insn`; `next` is the slot after it, needed by `ld_imm64` only.
    ///
    /// # Errors
    /// As the kernel, refuses unknown operations and unused fields that are
    /// not zero. Packet access (`BPF_ABS`, `BPF_IND`) and kernel symbols are
    /// unknown here.
    pub fn decode(insn: Insn, next: Option<Insn>) -> Result<Op, DecodeError> {
        match insn.class() {
            BPF_ALU => alu(insn, Width::W32),
            BPF_ALU64 => alu(insn, Width::W64),
            BPF_JMP => jump(insn, Width::W64),
            BPF_JMP32 => jump(insn, Width::W32),
            BPF_LD => load_imm(insn, next),
            BPF_LDX => load(insn),
            BPF_ST => {
                unused(insn.src() == 0)?;
                match insn.code & 0xe0 {
                    BPF_MEM => Ok(Op::Store {
                        size: Size::from_code(insn.code),
                        addr: Address {
                            base: reg(insn.dst())?,
                            off: insn.off,
                        },
                        src: Operand::Imm(insn.imm),
                    }),
                    _ => Err(Opcode(insn.code)),
                }
            }
            _ => store(insn),
        }
    }
}

fn reg(number: u8) -> Result<Reg, DecodeError> {
    Reg::new(number).ok_or(Register)
}

/// A register that the instruction writes.
fn written(number: u8) -> Result<Reg, DecodeError> {
    match reg(number)? {
        Reg::R10 => Err(DecodeError::FramePointer),
        other => Ok(other),
    }
}

fn unused(zero: bool) -> Result<(), DecodeError> {
    if zero { Ok(()) } else { Err(Reserved) }
}

/// The second operand by the `BPF_X` bit; the other kind's field must be zero.
fn operand(insn: Insn) -> Result<Operand, DecodeError> {
    if insn.code & BPF_X != 0 {
        unused(insn.imm == 0)?;
        Ok(Operand::Reg(reg(insn.src())?))
    } else {
        unused(insn.src() == 0)?;
        Ok(Operand::Imm(insn.imm))
    }
}

fn alu(insn: Insn, width: Width) -> Result<Op, DecodeError> {
    let dst = written(insn.dst())?;
    match insn.code & 0xf0 {
        BPF_NEG => {
            if insn.code & BPF_X != 0 {
                return Err(Opcode(insn.code));
            }
            unused(insn.src() == 0 && insn.off == 0 && insn.imm == 0)?;
            Ok(Op::Neg { width, dst })
        }
        BPF_END => {
            unused(insn.src() == 0 && insn.off == 0)?;
            let kind = match (width, insn.code & BPF_X != 0) {
                (Width::W32, false) => Swap::Le,
                (Width::W32, true) => Swap::Be,
                (Width::W64, false) => Swap::Always,
                (Width::W64, true) => return Err(Opcode(insn.code)),
            };
            let size = match insn.imm {
                16 => Size::H,
                32 => Size::W,
                64 => Size::DW,
                _ => return Err(Reserved),
            };
            Ok(Op::Swap { kind, size, dst })
        }
        BPF_MOV if insn.off != 0 => {
            let Operand::Reg(src) = operand(insn)? else {
                return Err(Reserved);
            };
            let from = match (insn.off, width) {
                (8, _) => Size::B,
                (16, _) => Size::H,
                (32, Width::W64) => Size::W,
                _ => return Err(Reserved),
            };
            Ok(Op::MovSx {
                width,
                from,
                dst,
                src,
            })
        }
        code => {
            let (op, ..) = ALU_OPS
                .into_iter()
                .find(|r| r.1 == code && r.2 == insn.off)
                .ok_or(if code > BPF_ARSH {
                    Opcode(insn.code)
                } else {
                    Reserved
                })?;
            Ok(Op::Alu {
                width,
                op,
                dst,
                src: operand(insn)?,
            })
        }
    }
}

fn jump(insn: Insn, width: Width) -> Result<Op, DecodeError> {
    match (insn.code & 0xf0, width) {
        (BPF_JA, Width::W64) if insn.code & BPF_X == 0 => {
            unused(insn.regs == 0 && insn.imm == 0)?;
            Ok(Op::Jump {
                rel: insn.off.into(),
                long: false,
            })
        }
        (BPF_JA, Width::W32) if insn.code & BPF_X == 0 => {
            unused(insn.regs == 0 && insn.off == 0)?;
            Ok(Op::Jump {
                rel: insn.imm,
                long: true,
            })
        }
        (BPF_CALL, Width::W64) if insn.code & BPF_X == 0 => {
            unused(insn.dst() == 0 && insn.off == 0)?;
            match insn.src() {
                0 => Ok(Op::CallHelper {
                    id: insn.imm as u32,
                }),
                BPF_PSEUDO_CALL => Ok(Op::CallSub { rel: insn.imm }),
                BPF_PSEUDO_KFUNC_CALL => Ok(Op::CallKfunc {
                    number: insn.imm as u32,
                }),
                _ => Err(Opcode(insn.code)),
            }
        }
        (BPF_JCOND, Width::W64) if insn.code & BPF_X == 0 => {
            unused(insn.regs == 0 && insn.imm == 0)?;
            Ok(Op::MayGoto { rel: insn.off })
        }
        (BPF_EXIT, Width::W64) if insn.code & BPF_X == 0 => {
            unused(insn.regs == 0 && insn.off == 0 && insn.imm == 0)?;
            Ok(Op::Exit)
        }
        (code, _) => {
            let (cond, _) = CONDS
                .into_iter()
                .find(|r| r.1 == code)
                .ok_or(Opcode(insn.code))?;
            let dst = reg(insn.dst())?;
            Ok(Op::Branch {
                width,
                cond,
                dst,
                src: operand(insn)?,
                rel: insn.off,
            })
        }
    }
}

fn load_imm(insn: Insn, next: Option<Insn>) -> Result<Op, DecodeError> {
    if insn.code != BPF_LD | BPF_IMM | BPF_DW {
        return Err(Opcode(insn.code));
    }
    let dst = written(insn.dst())?;
    unused(insn.off == 0)?;
    let next = next.ok_or(Incomplete)?;
    if next.code != 0 || next.regs != 0 || next.off != 0 {
        return Err(Incomplete);
    }
    let (low, high) = (insn.imm as u32, next.imm as u32);
    let imm = match insn.src() {
        0 => Imm64::Value(u64::from(high) << 32 | u64::from(low)),
        BPF_PSEUDO_MAP_VALUE => Imm64::MapValue {
            map: low,
            offset: high,
        },
        BPF_PSEUDO_MAP_FD if high == 0 => Imm64::Map(low),
        BPF_PSEUDO_FUNC if high == 0 => Imm64::Func(insn.imm),
        _ => return Err(Reserved),
    };
    Ok(Op::LoadImm { dst, imm })
}

fn load(insn: Insn) -> Result<Op, DecodeError> {
    let size = Size::from_code(insn.code);
    let signed = match insn.code & 0xe0 {
        BPF_MEM => false,
        BPF_MEMSX if size != Size::DW => true,
        _ => return Err(Opcode(insn.code)),
    };
    unused(insn.imm == 0)?;
    let addr = Address {
        base: reg(insn.src())?,
        off: insn.off,
    };
    Ok(Op::Load {
        size,
        signed,
        dst: written(insn.dst())?,
        addr,
    })
}

fn store(insn: Insn) -> Result<Op, DecodeError> {
    let size = Size::from_code(insn.code);
    let (dst, src) = (reg(insn.dst())?, reg(insn.src())?);
    let addr = Address {
        base: dst,
        off: insn.off,
    };
    match insn.code & 0xe0 {
        BPF_MEM => {
            unused(insn.imm == 0)?;
            Ok(Op::Store {
                size,
                addr,
                src: Operand::Reg(src),
            })
        }
        BPF_ATOMIC => match insn.imm {
            BPF_LOAD_ACQ => Ok(Op::LoadAcquire {
                size,
                dst: written(insn.dst())?,
                addr: Address {
                    base: src,
                    off: insn.off,
                },
            }),
            BPF_STORE_REL => Ok(Op::StoreRelease { size, addr, src }),
            imm => {
                if !matches!(size, Size::W | Size::DW) {
                    return Err(Opcode(insn.code));
                }
                let (op, fetch, _) = ATOMIC_OPS
                    .into_iter()
                    .find(|r| r.2 == imm)
                    .ok_or(Reserved)?;
                if fetch && op != AtomicOp::CmpXchg {
                    written(insn.src())?;
                }
                Ok(Op::Atomic {
                    op,
                    fetch,
                    size,
                    addr,
                    src,
                })
            }
        },
        _ => Err(Opcode(insn.code)),
    }
}
