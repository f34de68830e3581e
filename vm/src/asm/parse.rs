//! One line into one instruction. It knows no labels' places: a target is
//! handed back beside the instruction.

use uapi::Insn;

use super::Target;
use super::operand::{Line, Result, register};
use super::token::{Token, tokens};
use crate::op::{AluOp, AtomicOp, Cond, Imm64, Op, Reg, Size, Swap, Width};

/// A parsed line.
#[derive(Debug)]
pub(super) enum Statement {
    /// An instruction, and the target it still needs.
    Op(Op, Option<Target>),
    /// A slot given as a number.
    Raw(Insn),
}

const ALU_OPS: [AluOp; 13] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::Sdiv,
    AluOp::Or,
    AluOp::And,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Arsh,
    AluOp::Mod,
    AluOp::Smod,
    AluOp::Xor,
];

const CONDS: [Cond; 11] = [
    Cond::Eq,
    Cond::Ne,
    Cond::Gt,
    Cond::Ge,
    Cond::Lt,
    Cond::Le,
    Cond::Set,
    Cond::Sgt,
    Cond::Sge,
    Cond::Slt,
    Cond::Sle,
];

const ATOMIC_OPS: [AtomicOp; 6] = [
    AtomicOp::Add,
    AtomicOp::Or,
    AtomicOp::And,
    AtomicOp::Xor,
    AtomicOp::Xchg,
    AtomicOp::CmpXchg,
];

/// Parses one instruction.
pub(super) fn statement(line: &str) -> Result<Statement> {
    let tokens = tokens(line)?;
    let mut line = Line { tokens: &tokens };
    let statement = line.statement()?;
    match line.tokens.first() {
        None => Ok(statement),
        Some(token) => Err(format!("unexpected {token:?} after the instruction")),
    }
}

impl Line<'_> {
    fn statement(&mut self) -> Result<Statement> {
        let plain = |op| Ok(Statement::Op(op, None));
        match self.next()? {
            Token::Punct("*") => {
                let (size, signed, addr) = self.place()?;
                if signed {
                    return Err("stores have no sign".into());
                }
                self.expect("=")?;
                let src = self.second(Width::W64)?;
                plain(Op::Store { size, addr, src })
            }
            Token::Word("lock") => self.locked().and_then(plain),
            Token::Word("store_release") => {
                self.expect("(")?;
                let (size, addr) = self.pointer()?;
                self.expect(",")?;
                let (_, src) = self.reg()?;
                self.expect(")")?;
                plain(Op::StoreRelease { size, addr, src })
            }
            Token::Word("exit") => plain(Op::Exit),
            Token::Word("goto") => {
                let target = self.target()?;
                Ok(Statement::Op(
                    Op::Jump {
                        rel: 0,
                        long: false,
                    },
                    Some(target),
                ))
            }
            Token::Word("gotol") => {
                let target = self.target()?;
                Ok(Statement::Op(Op::Jump { rel: 0, long: true }, Some(target)))
            }
            Token::Word("may_goto") => {
                let target = self.target()?;
                Ok(Statement::Op(Op::MayGoto { rel: 0 }, Some(target)))
            }
            Token::Word("if") => self.branch(),
            Token::Word("call") => self.call(),
            Token::Word(".insn") => match self.next()? {
                Token::Number(slot) => Ok(Statement::Raw(Insn::from_bytes(slot.to_le_bytes()))),
                other => Err(format!("expected a number, not {other:?}")),
            },
            Token::Word(word) => {
                let (width, dst) = register(word).ok_or(format!("unknown word {word}"))?;
                self.assignment(width, dst)
            }
            other => Err(format!("no instruction starts with {other:?}")),
        }
    }

    fn assignment(&mut self, width: Width, dst: Reg) -> Result<Statement> {
        let plain = |op| Ok(Statement::Op(op, None));
        let Token::Punct(punct) = self.next()? else {
            return Err("expected an assignment".into());
        };
        if let Some(op) = ALU_OPS.into_iter().find(|op| op.text() == punct) {
            let src = self.second(width)?;
            return plain(Op::Alu {
                width,
                op,
                dst,
                src,
            });
        }
        if punct != "=" {
            return Err(format!("{punct:?} is no assignment"));
        }
        if let Some(Token::Number(_)) = self.tokens.first()
            && self.tokens.get(1) == Some(&Token::Word("ll"))
        {
            let value = self.number()?;
            self.take(Token::Word("ll"));
            return plain(Op::LoadImm {
                dst,
                imm: Imm64::Value(value),
            });
        }
        if self.take(Token::Punct("(")) {
            let (size, signed) = self.memory_type()?;
            self.expect(")")?;
            let (_, src) = self.reg()?;
            if !signed {
                return Err("only sign-extending moves name a type".into());
            }
            return plain(Op::MovSx {
                width,
                from: size,
                dst,
                src,
            });
        }
        if self.take(Token::Punct("*")) {
            let (size, signed, addr) = self.place()?;
            return plain(Op::Load {
                size,
                signed,
                dst,
                addr,
            });
        }
        if let [Token::Punct("-"), Token::Word(_), ..] = self.tokens {
            self.take(Token::Punct("-"));
            let (_, src) = self.reg()?;
            return if src == dst {
                plain(Op::Neg { width, dst })
            } else {
                Err("a register is negated in place".into())
            };
        }
        match self.tokens.first() {
            Some(Token::Word(word)) if register(word).is_none() => {
                self.next()?;
                self.named(word, width, dst)
            }
            _ => {
                let src = self.second(width)?;
                plain(Op::Alu {
                    width,
                    op: AluOp::Mov,
                    dst,
                    src,
                })
            }
        }
    }

    /// `dst = word …`, where `word` is no register.
    fn named(&mut self, word: &str, width: Width, dst: Reg) -> Result<Statement> {
        let plain = |op| Ok(Statement::Op(op, None));
        match word {
            "map" => {
                let id = self.index()?;
                plain(Op::LoadImm {
                    dst,
                    imm: Imm64::Map(id),
                })
            }
            "map_value" => {
                let map = self.index()?;
                let offset = if self.take(Token::Punct("+")) {
                    self.number32()?
                } else {
                    0
                };
                plain(Op::LoadImm {
                    dst,
                    imm: Imm64::MapValue { map, offset },
                })
            }
            "func" => {
                self.expect("[")?;
                let target = self.target()?;
                self.expect("]")?;
                Ok(Statement::Op(
                    Op::LoadImm {
                        dst,
                        imm: Imm64::Func(0),
                    },
                    Some(target),
                ))
            }
            "load_acquire" => {
                self.expect("(")?;
                let (size, addr) = self.pointer()?;
                self.expect(")")?;
                plain(Op::LoadAcquire { size, dst, addr })
            }
            _ => {
                if let Some(op) = self.swap(word, dst)? {
                    return plain(op);
                }
                let atomic = word.strip_prefix("atomic").and_then(|w| w.split_once('_'));
                let op = atomic
                    .and_then(|(_, name)| ATOMIC_OPS.into_iter().find(|op| op.text() == name));
                let op = op.ok_or(format!("unknown word {word}"))?;
                self.fetching(op, width, dst).and_then(plain)
            }
        }
    }

    /// `((u64 *)(r1 + 8), r2)` after `dst = atomic64_fetch_add`.
    fn fetching(&mut self, op: AtomicOp, _width: Width, dst: Reg) -> Result<Op> {
        self.expect("(")?;
        let (size, addr) = self.pointer()?;
        self.expect(",")?;
        let (_, mut src) = self.reg()?;
        let result = if op == AtomicOp::CmpXchg {
            self.expect(",")?;
            let compared = src;
            (_, src) = self.reg()?;
            compared == Reg::R0 && dst == Reg::R0
        } else {
            src == dst
        };
        self.expect(")")?;
        if !result {
            return Err("the result goes to the operand, or r0 of cmpxchg".into());
        }
        Ok(Op::Atomic {
            op,
            fetch: true,
            size,
            addr,
            src,
        })
    }

    fn swap(&mut self, word: &str, dst: Reg) -> Result<Option<Op>> {
        let kinds = [("le", Swap::Le), ("be", Swap::Be), ("bswap", Swap::Always)];
        for (name, kind) in kinds {
            let size = match word.strip_prefix(name) {
                Some("16") => Size::H,
                Some("32") => Size::W,
                Some("64") => Size::DW,
                _ => continue,
            };
            let (_, src) = self.reg()?;
            return if src == dst {
                Ok(Some(Op::Swap { kind, size, dst }))
            } else {
                Err("a register is swapped in place".into())
            };
        }
        Ok(None)
    }

    /// `*(u64 *)(r1 + 8) += r2` after `lock`.
    fn locked(&mut self) -> Result<Op> {
        self.expect("*")?;
        let (size, _, addr) = self.place()?;
        let op = match self.next()? {
            Token::Punct("+=") => AtomicOp::Add,
            Token::Punct("|=") => AtomicOp::Or,
            Token::Punct("&=") => AtomicOp::And,
            Token::Punct("^=") => AtomicOp::Xor,
            other => return Err(format!("{other:?} is not atomic")),
        };
        let (_, src) = self.reg()?;
        Ok(Op::Atomic {
            op,
            fetch: false,
            size,
            addr,
            src,
        })
    }

    fn branch(&mut self) -> Result<Statement> {
        let (width, dst) = self.reg()?;
        let Token::Punct(punct) = self.next()? else {
            return Err("expected a comparison".into());
        };
        let cond = CONDS.into_iter().find(|c| c.text() == punct);
        let cond = cond.ok_or(format!("{punct:?} is no comparison"))?;
        let src = self.second(width)?;
        if !self.take(Token::Word("goto")) {
            return Err("expected goto".into());
        }
        let target = self.target()?;
        Ok(Statement::Op(
            Op::Branch {
                width,
                cond,
                dst,
                src,
                rel: 0,
            },
            Some(target),
        ))
    }

    fn call(&mut self) -> Result<Statement> {
        if let Some(Token::Number(_)) = self.tokens.first() {
            let id = self.number32()?;
            return Ok(Statement::Op(Op::CallHelper { id }, None));
        }
        if self.take(Token::Word("kfunc")) {
            let number = self.index()?;
            return Ok(Statement::Op(Op::CallKfunc { number }, None));
        }
        self.take(Token::Word("pc"));
        let target = self.target()?;
        Ok(Statement::Op(Op::CallSub { rel: 0 }, Some(target)))
    }
}
