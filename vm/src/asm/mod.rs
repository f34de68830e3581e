//! A small assembler for tests and people: the text [`crate::disasm`] prints,
//! plus labels. It knows no object files.
//!
//! One instruction a line; `;`, `#` or `//` starts a comment; `name:` is a
//! label. Wherever a relative target `+3` stands, a label may stand.
//!
//! ```text
//!     r2 = 10
//! loop:
//!     r0 += r2
//!     r2 += -1
//!     if r2 != 0 goto loop
//!     *(u64 *)(r10 - 8) = r0
//!     lock *(u64 *)(r10 - 8) += r0
//!     r0 = *(u64 *)(r10 - 8)
//!     exit
//! ```

mod operand;
mod parse;
mod token;

use std::collections::HashMap;

use uapi::Insn;

use crate::op::{Imm64, Op};
use parse::Statement;

/// A line that could not be assembled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct AsmError {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Where a jump, call or function reference leads.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Relative(i32),
    Label(String),
}

/// Assembles a program.
///
/// # Errors
/// Names the first line that is no instruction, whose numbers do not fit, or
/// whose label does not exist.
pub fn assemble(text: &str) -> Result<Vec<Insn>, AsmError> {
    let mut labels = HashMap::new();
    let mut statements = Vec::new();
    let mut slot = 0;
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let error = |reason| AsmError {
            line: line_number,
            reason,
        };
        let mut rest = without_comment(line).trim();
        while let Some((label, after)) = token::label(rest) {
            if labels.insert(label.to_owned(), slot).is_some() {
                return Err(error(format!("label {label} stands twice")));
            }
            rest = after.trim_start();
        }
        if rest.is_empty() {
            continue;
        }
        let statement = parse::statement(rest).map_err(error)?;
        let at = slot;
        slot += match &statement {
            Statement::Op(op, _) => op.slots(),
            Statement::Raw(_) => 1,
        };
        statements.push((line_number, at, statement));
    }

    let mut insns = Vec::with_capacity(slot);
    for (line, at, statement) in statements {
        match statement {
            Statement::Raw(insn) => insns.push(insn),
            Statement::Op(op, target) => {
                let op = match target {
                    Some(target) => {
                        let rel = resolve(&target, at + 1, &labels);
                        rel.and_then(|rel| aim(op, rel))
                            .map_err(|reason| AsmError { line, reason })?
                    }
                    None => op,
                };
                let (first, second) = op.encode();
                insns.push(first);
                insns.extend(second);
            }
        }
    }
    Ok(insns)
}

fn without_comment(line: &str) -> &str {
    let ends = [line.find(';'), line.find('#'), line.find("//")];
    let end = ends.into_iter().flatten().min().unwrap_or(line.len());
    &line[..end]
}

fn resolve(target: &Target, next: usize, labels: &HashMap<String, usize>) -> Result<i32, String> {
    match target {
        Target::Relative(rel) => Ok(*rel),
        Target::Label(name) => {
            let to = labels.get(name).ok_or_else(|| format!("no label {name}"))?;
            i32::try_from(*to as i64 - next as i64).map_err(|_| format!("{name} is too far"))
        }
    }
}

/// Gives an instruction its relative target.
fn aim(op: Op, to: i32) -> Result<Op, String> {
    let short = || i16::try_from(to).map_err(|_| format!("target {to} is too far"));
    Ok(match op {
        Op::Jump { long: false, .. } => Op::Jump {
            rel: short()?.into(),
            long: false,
        },
        Op::Jump { long: true, .. } => Op::Jump {
            rel: to,
            long: true,
        },
        Op::Branch {
            width,
            cond,
            dst,
            src,
            ..
        } => Op::Branch {
            width,
            cond,
            dst,
            src,
            rel: short()?,
        },
        Op::MayGoto { .. } => Op::MayGoto { rel: short()? },
        Op::CallSub { .. } => Op::CallSub { rel: to },
        Op::LoadImm { dst, .. } => Op::LoadImm {
            dst,
            imm: Imm64::Func(to),
        },
        other => other,
    })
}
