//! Finds loops that do nothing but fill or copy memory, element after
//! element upwards. Knows no machine.

use crate::link::{Code, Step};
use crate::op::{Address, AluOp, Cond, Op, Operand, Reg, Size, Width};

use super::flow::{Regs, bit, jump_target};

/// Steps of the longest loop that is looked at.
const MAX_STEPS: usize = 16;
/// r0 to r9.
const REGISTERS: usize = 10;

/// A sum of registers, each taken at most once, and a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    pub registers: Regs,
    pub constant: i32,
}

impl Sum {
    const fn of(reg: usize) -> Sum {
        Sum {
            registers: 1 << reg,
            constant: 0,
        }
    }

    fn plus(self, other: Sum) -> Option<Sum> {
        (self.registers & other.registers == 0).then_some(())?;
        Some(Sum {
            registers: self.registers | other.registers,
            constant: self.constant.checked_add(other.constant)?,
        })
    }

    /// The register that this is, if it is nothing else.
    fn register(self) -> Option<Reg> {
        let one = self.constant == 0 && self.registers.count_ones() == 1;
        one.then(|| Reg::new(self.registers.trailing_zeros() as u8))?
    }
}

/// What a register holds in a round, in terms of the round's beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Sum(Sum),
    /// What was loaded.
    Element,
    Other,
}

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The same in each round.
    Value(Operand),
    /// What is at this address.
    Memory(Sum),
}

/// A loop that fills or copies memory.
#[derive(Clone, Debug)]
pub(super) struct Bulk {
    /// The slot after the loop.
    pub end: usize,
    /// Of an element.
    pub size: Size,
    /// Address of the first element.
    pub to: Sum,
    pub from: Source,
    /// Counts up, by `steps`, …
    pub index: Reg,
    /// … to the first value that is not below this.
    pub bound: Operand,
    /// By how much each register grows in a round.
    pub steps: [i32; REGISTERS],
}

/// The loop that begins at `head`, if it is one of these. `live` are the
/// registers that are needed at a slot.
pub(super) fn recognise(code: &Code, head: usize, live: impl Fn(usize) -> Regs) -> Option<Bulk> {
    let mut round = Round::new();
    for at in head..(head + MAX_STEPS).min(code.steps.len()) {
        let step = &code.steps[at];
        if let Step::Op(Op::Branch {
            width: Width::W64,
            cond,
            dst,
            src,
            ..
        }) = *step
        {
            (jump_target(at, step) == Some(head)).then_some(())?;
            return round.bulk(at + 1, (cond, dst, src), live(at + 1));
        }
        round.step(step)?;
    }
    None
}

/// One round of a loop.
struct Round {
    held: [Held; REGISTERS],
    load: Option<(Size, Sum)>,
    /// Size, address and what is stored; an element is what was loaded.
    store: Option<(Size, Sum, Option<Operand>)>,
}

impl Round {
    fn new() -> Round {
        Round {
            held: std::array::from_fn(|reg| Held::Sum(Sum::of(reg))),
            load: None,
            store: None,
        }
    }

    fn held(&self, reg: Reg) -> Held {
        let known = self.held.get(usize::from(reg.number()));
        known.copied().unwrap_or(Held::Other)
    }

    fn sum(&self, operand: Operand) -> Option<Sum> {
        match operand {
            Operand::Imm(constant) => Some(Sum {
                registers: 0,
                constant,
            }),
            Operand::Reg(reg) => match self.held(reg) {
                Held::Sum(sum) => Some(sum),
                Held::Element | Held::Other => None,
            },
        }
    }

    fn address(&self, addr: Address) -> Option<Sum> {
        let offset = Sum {
            registers: 0,
            constant: addr.off.into(),
        };
        self.sum(Operand::Reg(addr.base))?.plus(offset)
    }

    fn set(&mut self, reg: Reg, held: Held) {
        if let Some(place) = self.held.get_mut(usize::from(reg.number())) {
            *place = held;
        }
    }

    /// Follows a step; `None` if it does anything else.
    fn step(&mut self, step: &Step) -> Option<()> {
        let &Step::Op(op) = step else { return None };
        match op {
            Op::Alu {
                width: Width::W64,
                op,
                dst,
                src,
            } => {
                let held = match op {
                    AluOp::Mov => match src {
                        Operand::Reg(src) => self.held(src),
                        Operand::Imm(_) => Held::Sum(self.sum(src)?),
                    },
                    AluOp::Add => {
                        let sum = self.sum(Operand::Reg(dst))?.plus(self.sum(src)?);
                        Held::Sum(sum?)
                    }
                    _ => return None,
                };
                self.set(dst, held);
            }
            Op::Load {
                size,
                signed: false,
                dst,
                addr,
            } => {
                // All of a round's loads must come before its stores.
                (self.load.is_none() && self.store.is_none()).then_some(())?;
                self.load = Some((size, self.address(addr)?));
                self.set(dst, Held::Element);
            }
            Op::Store { size, addr, src } => {
                self.store.is_none().then_some(())?;
                let element = matches!(src, Operand::Reg(reg) if self.held(reg) == Held::Element);
                let value = match src {
                    _ if element => None,
                    Operand::Imm(_) => Some(src),
                    Operand::Reg(_) => Some(Operand::Reg(self.sum(src)?.register()?)),
                };
                self.store = Some((size, self.address(addr)?, value));
            }
            _ => return None,
        }
        Some(())
    }

    /// How much each register grows in a round; `None` where it does not, but
    /// holds something else.
    fn growth(&self) -> [Option<i32>; REGISTERS] {
        std::array::from_fn(|reg| match self.held[reg] {
            Held::Sum(Sum {
                registers,
                constant,
            }) if registers == 1 << reg => Some(constant),
            _ => None,
        })
    }

    /// The whole loop: it ends before slot `end`, goes on under a condition,
    /// and afterwards registers in `live` are needed.
    fn bulk(&self, end: usize, (cond, dst, src): (Cond, Reg, Operand), live: Regs) -> Option<Bulk> {
        let growth = self.growth();
        // Nothing but counters may be needed of what the loop changes.
        let lost = |reg: &usize| growth[*reg].is_none() && live & (1 << reg) != 0;
        (0..REGISTERS).find(lost).is_none().then_some(())?;
        let advance = |sum: Sum| {
            let registers = (0..REGISTERS).filter(|reg| sum.registers & (1 << reg) != 0);
            registers.map(|reg| growth[reg]).sum::<Option<i32>>()
        };
        let constant = |reg: Reg| growth[usize::from(reg.number())] == Some(0);

        let (size, to, value) = self.store?;
        let bytes = size.bits() as i32 / 8;
        let upwards = |sum: Sum| {
            let few = (1..=2).contains(&sum.registers.count_ones());
            (few && advance(sum) == Some(bytes)).then_some(())
        };
        upwards(to)?;
        let from = match (self.load, value) {
            (Some((loaded, from)), None) if loaded == size => {
                upwards(from)?;
                Source::Memory(from)
            }
            (None, Some(Operand::Reg(reg))) if !constant(reg) => return None,
            (None, Some(value)) => Source::Value(value),
            _ => return None,
        };

        let (index, bound) = match (cond, src) {
            (Cond::Lt, bound) => (dst, bound),
            (Cond::Gt, Operand::Reg(index)) => (index, Operand::Reg(dst)),
            (Cond::Ne, bound @ Operand::Imm(_)) => (dst, bound),
            (Cond::Ne, Operand::Reg(other)) if constant(other) => (dst, src),
            (Cond::Ne, Operand::Reg(other)) => (other, Operand::Reg(dst)),
            _ => return None,
        };
        let step = growth.get(usize::from(index.number())).copied()??;
        let counts = if cond == Cond::Ne {
            step == 1
        } else {
            (1..=256).contains(&step) && step.count_ones() == 1
        };
        let bounded = match bound {
            Operand::Reg(reg) => bit(reg) != 0 && constant(reg),
            Operand::Imm(imm) => imm >= 0,
        };
        (counts && bounded).then_some(Bulk {
            end,
            size,
            to,
            from,
            index,
            bound,
            steps: growth.map(Option::unwrap_or_default),
        })
    }
}
