//! Operands of a line: registers, numbers, targets, memory. Knows no
//! instruction.

use super::Target;
use super::token::Token;
use crate::op::{Address, Operand, Reg, Size, Width};

pub(super) type Result<T> = core::result::Result<T, String>;

/// What is left of a line.
pub(super) struct Line<'a> {
    pub tokens: &'a [Token<'a>],
}

impl<'a> Line<'a> {
    pub(super) fn next(&mut self) -> Result<Token<'a>> {
        let (first, rest) = self.tokens.split_first().ok_or("the line ends too early")?;
        self.tokens = rest;
        Ok(*first)
    }

    /// Takes the token if it is next.
    pub(super) fn take(&mut self, token: Token<'_>) -> bool {
        let found = self.tokens.first() == Some(&token);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    pub(super) fn expect(&mut self, punct: &'static str) -> Result<()> {
        if self.take(Token::Punct(punct)) {
            Ok(())
        } else {
            Err(format!(
                "expected {punct:?} before {:?}",
                self.tokens.first()
            ))
        }
    }

    pub(super) fn target(&mut self) -> Result<Target> {
        match self.next()? {
            Token::Word(name) => Ok(Target::Label(name.to_owned())),
            Token::Punct(sign @ ("+" | "-")) => {
                let distance = self.number()? as i128;
                let distance = if sign == "-" { -distance } else { distance };
                let distance = i32::try_from(distance).map_err(|_| "target is too far")?;
                Ok(Target::Relative(distance))
            }
            other => Err(format!("expected a label or +n, not {other:?}")),
        }
    }

    pub(super) fn reg(&mut self) -> Result<(Width, Reg)> {
        match self.next()? {
            Token::Word(word) => register(word).ok_or(format!("{word} is no register")),
            other => Err(format!("expected a register, not {other:?}")),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        match self.next()? {
            Token::Number(n) => Ok(n),
            other => Err(format!("expected a number, not {other:?}")),
        }
    }

    pub(super) fn number32(&mut self) -> Result<u32> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| format!("{number} does not fit 32 bits"))
    }

    pub(super) fn index(&mut self) -> Result<u32> {
        self.expect("[")?;
        let index = self.number32()?;
        self.expect("]")?;
        Ok(index)
    }

    /// A register of the given width or an immediate. For 32-bit operations
    /// the upper half of the unsigned range is an immediate too.
    pub(super) fn second(&mut self, width: Width) -> Result<Operand> {
        if let Some(Token::Word(_)) = self.tokens.first() {
            let (found, reg) = self.reg()?;
            return if found == width {
                Ok(Operand::Reg(reg))
            } else {
                Err("both operands have one width".into())
            };
        }
        let negative = self.take(Token::Punct("-"));
        let number = self.number()? as i128;
        let number = if negative { -number } else { number };
        let wraps = width == Width::W32 && u32::try_from(number).is_ok();
        match i32::try_from(number) {
            Ok(imm) => Ok(Operand::Imm(imm)),
            Err(_) if wraps => Ok(Operand::Imm(number as u32 as i32)),
            Err(_) => Err(format!("{number} does not fit an immediate")),
        }
    }

    pub(super) fn memory_type(&mut self) -> Result<(Size, bool)> {
        let token = self.next()?;
        let Token::Word(word) = token else {
            return Err(format!("expected a type, not {token:?}"));
        };
        let size = match word.get(1..) {
            Some("8") => Size::B,
            Some("16") => Size::H,
            Some("32") => Size::W,
            Some("64") => Size::DW,
            _ => return Err(format!("{word} is no type")),
        };
        match word.as_bytes()[0] {
            b'u' => Ok((size, false)),
            b's' => Ok((size, true)),
            _ => Err(format!("{word} is no type")),
        }
    }

    /// `(u32 *)(r1 + 4)`, unsigned.
    pub(super) fn pointer(&mut self) -> Result<(Size, Address)> {
        let (size, _, addr) = self.place()?;
        Ok((size, addr))
    }

    /// `(s32 *)(r1 + 4)`.
    pub(super) fn place(&mut self) -> Result<(Size, bool, Address)> {
        self.expect("(")?;
        let (size, signed) = self.memory_type()?;
        self.expect("*")?;
        self.expect(")")?;
        self.expect("(")?;
        let (_, base) = self.reg()?;
        let off = if self.take(Token::Punct("+")) {
            self.number()? as i128
        } else if self.take(Token::Punct("-")) {
            -(self.number()? as i128)
        } else {
            0
        };
        self.expect(")")?;
        let off = i16::try_from(off).map_err(|_| format!("offset {off} does not fit"))?;
        Ok((size, signed, Address { base, off }))
    }
}

/// A register and the width its name means.
pub(super) fn register(word: &str) -> Option<(Width, Reg)> {
    let width = match word.as_bytes().first()? {
        b'r' => Width::W64,
        b'w' => Width::W32,
        _ => return None,
    };
    Some((width, Reg::new(word[1..].parse().ok()?)?))
}
