//! What one instruction does to the state: arithmetic and jumps here, memory
//! in `mem` and `stack`, calls in `call`.

use uapi::insn::*;

use super::alu::{alu32, alu64, byte_order, sign_extend, sign_extend32, zero_extend};
use super::branch::{decide, refine};
use super::cfg::{is_jump_class, jump_target};
use super::packet::Comparison;
use super::precision::Sources;
use super::range::Scalar;
use super::state::{Kind, Reg, State, Trust};
use super::walk::Walk;
use super::{Fail, opcode, pointer};

/// No mapping lies this close to address 0 (`vm.mmap_min_addr`), so a valid
/// address plus or minus less than this is not NULL.
const NOT_NULL_WITHIN: u64 = 1 << 15;

impl Walk<'_> {
    /// Does the instruction in hand; the next one, or `None` at the path's end.
    pub(super) fn step(&mut self) -> Result<Option<usize>, Fail> {
        let insn = self.insn();
        let next = Some(self.at + 1);
        self.jumps += u32::from(is_jump_class(insn));
        match insn.class() {
            BPF_ALU | BPF_ALU64 => self.alu().map(|()| next),
            BPF_LD if !super::cfg::is_wide(insn) => self.load_from_packet().map(|()| next),
            BPF_LD => self.load_immediate().map(|()| Some(self.at + 2)),
            BPF_LDX => self.load().map(|()| next),
            BPF_ST => self.store().map(|()| next),
            BPF_STX if insn.code & 0xe0 == BPF_ATOMIC => self.atomic().map(|()| next),
            BPF_STX => self.store().map(|()| next),
            _ => match insn.code & 0xf0 {
                BPF_CALL => self.call().map(Some),
                BPF_EXIT => self.exit(),
                BPF_JA => Ok(jump_target(insn, self.at).map(|t| t as usize)),
                BPF_JCOND => self.may_goto().map(Some),
                _ => self.branch().map(Some),
            },
        }
    }

    fn alu(&mut self) -> Result<(), Fail> {
        let insn = self.insn();
        let is64 = insn.class() == BPF_ALU64;
        let op = insn.code & 0xf0;
        let result = match op {
            BPF_MOV => self.copy(is64)?,
            BPF_END => {
                let (val, from) = self.number(insn.dst())?;
                let bits = insn.imm as u32;
                let swap = is64 || insn.code & BPF_X != 0;
                Reg::derived(byte_order(&val, bits, swap), from)
            }
            BPF_NEG => {
                let (val, from) = self.number(insn.dst())?;
                let f = if is64 { alu64 } else { alu32 };
                Reg::derived(f(op, &val, &Scalar::known(0)), from)
            }
            _ => {
                let src = self.operand(is64)?;
                let dst = self.read(insn.dst())?;
                if !self.env.accepts_all_of_rfc9669() {
                    opcode::check_constant(insn)?;
                }
                if dst.kind.is_pointer() || src.kind.is_pointer() {
                    // What is added to a pointer; the pointer itself has none.
                    self.need_precise(dst.from.and(src.from));
                    let of_packet = [&dst, &src]
                        .into_iter()
                        .any(|side| matches!(side.kind, Kind::Packet { .. }));
                    let new_id = if of_packet { self.fresh_id() } else { 0 };
                    pointer::arithmetic(op, is64, insn.dst(), &dst, &src, new_id)?
                } else if insn.off != 0 {
                    // Signed division and remainder.
                    let any = Scalar::UNKNOWN;
                    Reg::scalar(if is64 { any } else { zero_extend(&any) })
                } else {
                    let f = if is64 { alu64 } else { alu32 };
                    let from = dst.from.and(src.from);
                    let sum = Reg::derived(f(op, &dst.val, &src.val), from);
                    let constant = insn.code & BPF_X == 0;
                    if op == BPF_ADD && is64 && constant && sum.val.as_const().is_none() {
                        // Stays linked to its copies, at a distance.
                        let delta = dst.delta.wrapping_add(insn.imm.into());
                        let id = dst.id;
                        Reg { id, delta, ..sum }
                    } else {
                        sum
                    }
                }
            }
        };
        self.write(insn.dst(), result)
    }

    /// The second operand of an ALU or jump instruction.
    fn operand(&self, is64: bool) -> Result<Reg, Fail> {
        let insn = self.insn();
        if insn.code & BPF_X != 0 {
            return self.read(insn.src());
        }
        let n = if is64 {
            i64::from(insn.imm) as u64
        } else {
            u64::from(insn.imm as u32)
        };
        Ok(Reg::scalar(Scalar::known(n)))
    }

    /// A register as a number; an address is any number.
    fn number(&self, number: u8) -> Result<(Scalar, Sources), Fail> {
        let reg = self.read(number)?;
        Ok(if reg.kind == Kind::Scalar {
            (reg.val, reg.from)
        } else {
            (Scalar::UNKNOWN, Sources::NONE)
        })
    }

    fn copy(&mut self, is64: bool) -> Result<Reg, Fail> {
        let insn = self.insn();
        if insn.code & BPF_X == 0 {
            return self.operand(is64);
        }
        let src = self.read(insn.src())?;
        let bytes = insn.off as u32 / 8;
        if bytes != 0 {
            if src.kind.is_pointer() {
                return Ok(Reg::scalar(if is64 {
                    Scalar::UNKNOWN
                } else {
                    Scalar::unknown_bytes(4)
                }));
            }
            let f = if is64 { sign_extend } else { sign_extend32 };
            return Ok(Reg::derived(f(&src.val, bytes), src.from));
        }
        if src.kind.is_pointer() {
            return Ok(if is64 {
                src
            } else {
                Reg::scalar(Scalar::unknown_bytes(4))
            });
        }
        if is64 || src.val.umax <= u64::from(u32::MAX) {
            return Ok(self.link(insn.src()));
        }
        Ok(Reg::derived(zero_extend(&src.val), src.from))
    }

    /// A copy of a register that stays equal to it: what a branch teaches of
    /// one holds for the other.
    pub(super) fn link(&mut self, number: u8) -> Reg {
        let mut reg = *self.state.reg(number);
        if reg.kind == Kind::Scalar && reg.id == 0 && reg.val.as_const().is_none() {
            reg.id = self.fresh_id();
            self.state.set(number, reg);
        }
        reg
    }

    fn load_immediate(&mut self) -> Result<(), Fail> {
        let insn = self.insn();
        let high = self.spec.insns[self.at + 1].imm as u32;
        let position = |id: u32| self.cfg.maps.iter().position(|m| m.id == id);
        let reg = match insn.src() {
            0 => {
                let n = u64::from(insn.imm as u32) | (u64::from(high) << 32);
                Reg::scalar(Scalar::known(n))
            }
            BPF_PSEUDO_FUNC => self.function_address(insn.imm)?,
            src => {
                let map = position(insn.imm as u32)
                    .ok_or_else(|| Fail::einval("ld_imm64 of an unknown map"))?;
                let map = map as u32;
                if src == BPF_PSEUDO_MAP_VALUE {
                    let or_null = false;
                    Reg::pointer(Kind::MapValue { map, or_null }, high.into(), 0)
                } else {
                    Reg::pointer(Kind::Map { map }, 0, 0)
                }
            }
        };
        self.write(insn.dst(), reg)
    }

    /// One path falls through while there are turns left, the other jumps.
    fn may_goto(&mut self) -> Result<usize, Fail> {
        let mut other = self.state.clone();
        other.turn();
        self.widen(self.at, &mut other);
        self.push(self.at + 1, other)?;
        Ok(jump_target(self.insn(), self.at).map_or(0, |t| t as usize))
    }

    fn branch(&mut self) -> Result<usize, Fail> {
        let insn = self.insn();
        let is32 = insn.class() == BPF_JMP32;
        let op = insn.code & 0xf0;
        let by_reg = insn.code & BPF_X != 0;
        let dst = self.read(insn.dst())?;
        let src = self.operand(!is32)?;
        let target = jump_target(insn, self.at).map_or(0, |t| t as usize);
        let next = self.at + 1;
        let is_equality = matches!(op, BPF_JEQ | BPF_JNE);
        if dst.kind.is_pointer() || src.kind.is_pointer() {
            if is_equality && !is32 && src.is_null() {
                self.need_precise(src.from);
                if dst.kind.or_null() {
                    return self.null_check(dst.id, op == BPF_JEQ, target);
                }
                if is_surely_not_null(&dst) {
                    return Ok(if op == BPF_JNE { target } else { next });
                }
            }
            let sides = ((insn.dst(), &dst), (insn.src(), &src));
            let compared = (by_reg && !is32).then(|| Comparison::of(op, sides.0, sides.1));
            if let Some(compared) = compared.flatten() {
                return self.packet_branch(&compared, target);
            }
            let mut other = self.state.clone();
            if by_reg && !is32 && is_equality {
                let equal = match op {
                    BPF_JEQ => &mut other,
                    _ => &mut self.state,
                };
                infer_not_null(equal, insn.dst(), insn.src());
            }
            self.push(target, other)?;
            return Ok(next);
        }
        let sides = match decide(op, &dst.val, &src.val, is32) {
            Some(taken) => Err(taken),
            None => {
                let taken = refine(op, &dst.val, &src.val, is32, true);
                let not = refine(op, &dst.val, &src.val, is32, false);
                // Where neither can be, nothing can: this path is dead anyway.
                taken.zip(not).ok_or(not.is_none())
            }
        };
        let ((ta, tb), (na, nb)) = match sides {
            Ok(sides) => sides,
            Err(taken) => {
                self.need_precise(dst.from.and(src.from));
                return Ok(if taken { target } else { next });
            }
        };
        let teach = |state: &mut State, a: Scalar, b: Scalar| {
            if by_reg {
                let src = taught(&src, b, &dst);
                state.set(insn.src(), src);
                state.learn(&src);
            }
            let dst = taught(&dst, a, &src);
            state.set(insn.dst(), dst);
            state.learn(&dst);
        };
        let mut other = self.state.clone();
        teach(&mut other, ta, tb);
        teach(&mut self.state, na, nb);
        self.push(target, other)?;
        Ok(next)
    }

    fn packet_branch(&mut self, compared: &Comparison, target: usize) -> Result<usize, Fail> {
        let next = self.at + 1;
        if let Some(taken) = compared.decided() {
            return Ok(if taken { target } else { next });
        }
        let mut other = self.state.clone();
        compared.teach(&mut other, true);
        compared.teach(&mut self.state, false);
        self.push(target, other)?;
        Ok(next)
    }

    /// Splits into NULL and not NULL; the jump is taken when `null_jumps` says so.
    fn null_check(&mut self, id: u32, null_jumps: bool, target: usize) -> Result<usize, Fail> {
        let mut other = self.state.clone();
        other.settle_null(id, null_jumps);
        self.state.settle_null(id, !null_jumps);
        self.push(target, other)?;
        Ok(self.at + 1)
    }
}

/// Of two pointers that are equal none is NULL if one is not. Objects of the
/// kernel may be NULL though their kind says otherwise.
fn infer_not_null(equal: &mut State, a: u8, b: u8) {
    let (left, right) = (equal.reg(a).kind, equal.reg(b).kind);
    let is_known = |kind: Kind| kind.is_pointer() && !matches!(kind, Kind::Object { .. });
    if !is_known(left) || !is_known(right) || left.or_null() == right.or_null() {
        return;
    }
    let number = if left.or_null() { a } else { b };
    let mut reg = *equal.reg(number);
    reg.kind = reg.kind.not_null();
    equal.set(number, reg);
}

/// A scalar after a comparison with `by` left `val` of it.
fn taught(reg: &Reg, val: Scalar, by: &Reg) -> Reg {
    let from = if val == reg.val {
        reg.from
    } else {
        reg.from.and(by.from)
    };
    Reg { val, from, ..*reg }
}

/// Whether an address can be told from NULL without looking (kernel: `reg_not_null`).
fn is_surely_not_null(reg: &Reg) -> bool {
    let near = |n: u64| (n as i64).unsigned_abs() < NOT_NULL_WITHIN;
    match reg.kind {
        Kind::Map { .. } | Kind::MapKey { .. } => true,
        Kind::Sock { or_null, .. } => !or_null,
        Kind::Object { trust, or_null, .. } => trust == Trust::Given && !or_null,
        Kind::MapValue { or_null, .. }
        | Kind::Record { or_null, .. }
        | Kind::Mem { or_null, .. } => !or_null && reg.val.as_const().is_some_and(near),
        _ => false,
    }
}
