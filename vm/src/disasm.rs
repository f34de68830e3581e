//! Instructions as text, in the spelling of the kernel's verifier log; what
//! [`crate::asm`] reads back. It knows no program beyond the slice it is given.

use core::fmt::{self, Display};

use uapi::Insn;

use crate::op::{Address, AluOp, AtomicOp, Cond, Imm64, Op, Operand, Reg, Size, Swap, Width};

/// All instructions, one per line. Slots that are no instruction become
/// `.insn` with the slot as a number, so that nothing is lost.
pub fn disassemble(insns: &[Insn]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while let Some(&insn) = insns.get(at) {
        match Op::decode(insn, insns.get(at + 1).copied()) {
            Ok(op) => {
                text.push_str(&op.to_string());
                at += op.slots();
            }
            Err(_) => {
                text.push_str(&format!(
                    ".insn {:#018x}",
                    u64::from_le_bytes(insn.to_bytes())
                ));
                at += 1;
            }
        }
        text.push('\n');
    }
    text
}

impl AluOp {
    /// The assignment operator, as `+=`.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            AluOp::Add => "+=",
            AluOp::Sub => "-=",
            AluOp::Mul => "*=",
            AluOp::Div => "/=",
            AluOp::Sdiv => "s/=",
            AluOp::Or => "|=",
            AluOp::And => "&=",
            AluOp::Lsh => "<<=",
            AluOp::Rsh => ">>=",
            AluOp::Arsh => "s>>=",
            AluOp::Mod => "%=",
            AluOp::Smod => "s%=",
            AluOp::Xor => "^=",
            AluOp::Mov => "=",
        }
    }
}

impl Cond {
    /// The comparison operator, as `s>`.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Cond::Eq => "==",
            Cond::Ne => "!=",
            Cond::Gt => ">",
            Cond::Ge => ">=",
            Cond::Lt => "<",
            Cond::Le => "<=",
            Cond::Set => "&",
            Cond::Sgt => "s>",
            Cond::Sge => "s>=",
            Cond::Slt => "s<",
            Cond::Sle => "s<=",
        }
    }
}

impl AtomicOp {
    /// The name in `atomic64_NAME`.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            AtomicOp::Add => "fetch_add",
            AtomicOp::Or => "fetch_or",
            AtomicOp::And => "fetch_and",
            AtomicOp::Xor => "fetch_xor",
            AtomicOp::Xchg => "xchg",
            AtomicOp::CmpXchg => "cmpxchg",
        }
    }

    const fn assignment(self) -> &'static str {
        match self {
            AtomicOp::Or => "|=",
            AtomicOp::And => "&=",
            AtomicOp::Xor => "^=",
            AtomicOp::Add | AtomicOp::Xchg | AtomicOp::CmpXchg => "+=",
        }
    }
}

/// A register at a width: `r1` or `w1`.
struct Wide(Width, Reg);

impl Display for Wide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.0 {
            Width::W32 => 'w',
            Width::W64 => 'r',
        };
        write!(f, "{letter}{}", self.1.number())
    }
}

/// A second operand at a width.
struct Second(Width, Operand);

impl Display for Second {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Operand::Reg(reg) => Wide(self.0, reg).fmt(f),
            Operand::Imm(imm) => imm.fmt(f),
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.off < 0 { '-' } else { '+' };
        write!(
            f,
            "(r{} {sign} {})",
            self.base.number(),
            self.off.unsigned_abs()
        )
    }
}

/// `r1` for double words, `w1` for smaller values.
const fn width_of(size: Size) -> Width {
    match size {
        Size::DW => Width::W64,
        _ => Width::W32,
    }
}

impl Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = |reg| Wide(Width::W64, reg);
        match *self {
            Op::Alu {
                width,
                op,
                dst,
                src,
            } => {
                write!(
                    f,
                    "{} {} {}",
                    Wide(width, dst),
                    op.text(),
                    Second(width, src)
                )
            }
            Op::Neg { width, dst } => {
                write!(f, "{} = -{}", Wide(width, dst), Wide(width, dst))
            }
            Op::MovSx {
                width,
                from,
                dst,
                src,
            } => {
                write!(
                    f,
                    "{} = (s{}){}",
                    Wide(width, dst),
                    from.bits(),
                    Wide(width, src)
                )
            }
            Op::Swap { kind, size, dst } => {
                let kind = match kind {
                    Swap::Le => "le",
                    Swap::Be => "be",
                    Swap::Always => "bswap",
                };
                write!(f, "{} = {kind}{} {}", r(dst), size.bits(), r(dst))
            }
            Op::Load {
                size,
                signed,
                dst,
                addr,
            } => {
                let sign = if signed { 's' } else { 'u' };
                write!(f, "{} = *({sign}{} *){addr}", r(dst), size.bits())
            }
            Op::Store { size, addr, src } => {
                write!(
                    f,
                    "*(u{} *){addr} = {}",
                    size.bits(),
                    Second(Width::W64, src)
                )
            }
            Op::Atomic {
                op,
                fetch: false,
                size,
                addr,
                src,
            } => {
                let op = op.assignment();
                let src = Wide(width_of(size), src);
                write!(f, "lock *(u{} *){addr} {op} {src}", size.bits())
            }
            Op::Atomic {
                op,
                fetch: true,
                size,
                addr,
                src,
            } => {
                let (bits, name) = (size.bits(), op.text());
                let src = Wide(width_of(size), src);
                let r0 = Wide(width_of(size), Reg::R0);
                if op == AtomicOp::CmpXchg {
                    write!(
                        f,
                        "{r0} = atomic{bits}_{name}((u{bits} *){addr}, {r0}, {src})"
                    )
                } else {
                    write!(f, "{src} = atomic{bits}_{name}((u{bits} *){addr}, {src})")
                }
            }
            Op::LoadAcquire { size, dst, addr } => {
                let dst = Wide(width_of(size), dst);
                write!(f, "{dst} = load_acquire((u{} *){addr})", size.bits())
            }
            Op::StoreRelease { size, addr, src } => {
                let src = Wide(width_of(size), src);
                write!(f, "store_release((u{} *){addr}, {src})", size.bits())
            }
            Op::LoadImm { dst, imm } => {
                write!(f, "{} = ", r(dst))?;
                match imm {
                    Imm64::Value(value) => write!(f, "{value:#x} ll"),
                    Imm64::Map(id) => write!(f, "map[{id}]"),
                    Imm64::MapValue { map, offset } => write!(f, "map_value[{map}] + {offset}"),
                    Imm64::Func(rel) => write!(f, "func[{rel:+}]"),
                }
            }
            Op::Jump { rel, long: false } => write!(f, "goto {rel:+}"),
            Op::Jump { rel, long: true } => write!(f, "gotol {rel:+}"),
            Op::Branch {
                width,
                cond,
                dst,
                src,
                rel,
            } => {
                let src = Second(width, src);
                write!(
                    f,
                    "if {} {} {src} goto {rel:+}",
                    Wide(width, dst),
                    cond.text()
                )
            }
            Op::MayGoto { rel } => write!(f, "may_goto {rel:+}"),
            Op::CallHelper { id } => write!(f, "call {id}"),
            Op::CallKfunc { number } => write!(f, "call kfunc[{number}]"),
            Op::CallSub { rel } => write!(f, "call pc{rel:+}"),
            Op::Exit => f.write_str("exit"),
        }
    }
}
