//! Pointers into packets: how far a program may reach after it compared one
//! with the packet's end. It knows no packets, only what was compared.
//!
//! A pointer is a base plus a constant. The base is the packet's start plus
//! numbers that were added and are not constant (`Reg::val`, named by
//! `Reg::id`); the constant is `Reg::delta`. A comparison with the end tells how many
//! bytes there are from the base on, to all pointers with that base.

use uapi::helper::BPF_FUNC_DYNPTR_WRITE;
use uapi::insn::*;
use uapi::prog::*;

use super::Fail;
use super::cfg::names_subprogram;
use super::range::Scalar;
use super::state::{Kind, Reg, State};
use super::tnum::Tnum;
use super::walk::Walk;
use crate::helper::kernel;

/// No packet is longer (kernel: `MAX_PACKET_OFF`).
const MAX_PACKET: u64 = 0xffff;
/// A packet's start modulo 4 on machines that care (kernel: `NET_IP_ALIGN`).
const IP_ALIGN: i64 = 2;
/// `Kind::Packet::range` of a pointer that was found to be at the end or
/// behind it.
const AT_END: i32 = -1;
/// As [`AT_END`], behind it for certain.
const BEYOND_END: i32 = -2;

/// A pointer into a packet compared with its end, or one into what precedes
/// the data compared with the data's start.
pub(super) struct Comparison {
    /// Operator when the pointer is the left operand.
    op: u8,
    /// The pointer's register.
    number: u8,
    pointer: Reg,
}

impl Comparison {
    /// `dst op src` as such a comparison.
    pub(super) fn of(
        op: u8,
        (dst_number, dst): (u8, &Reg),
        (src_number, src): (u8, &Reg),
    ) -> Option<Comparison> {
        let (op, number, pointer) = if is_limit(dst, src) {
            (op, dst_number, *dst)
        } else if is_limit(src, dst) {
            let flipped = match op {
                BPF_JGT => BPF_JLT,
                BPF_JLT => BPF_JGT,
                BPF_JGE => BPF_JLE,
                BPF_JLE => BPF_JGE,
                _ => return None,
            };
            (flipped, src_number, *src)
        } else {
            return None;
        };
        matches!(op, BPF_JGT | BPF_JLT | BPF_JGE | BPF_JLE).then_some(Comparison {
            op,
            number,
            pointer,
        })
    }

    /// The outcome, if an earlier comparison told.
    pub(super) fn decided(&self) -> Option<bool> {
        let Kind::Packet { range, .. } = self.pointer.kind else {
            return None;
        };
        match (self.op, range) {
            (BPF_JGT | BPF_JLE, BEYOND_END) => Some(self.op == BPF_JGT),
            (BPF_JGE | BPF_JLT, BEYOND_END | AT_END) => Some(self.op == BPF_JGE),
            _ => None,
        }
    }

    /// Tells the state in which the comparison holds, or does not, what follows.
    pub(super) fn teach(&self, state: &mut State, holds: bool) {
        match (self.op, holds) {
            (BPF_JLE, true) | (BPF_JGT, false) => reaches(state, &self.pointer, 0),
            (BPF_JLT, true) | (BPF_JGE, false) => reaches(state, &self.pointer, 1),
            (BPF_JGT, true) | (BPF_JLE, false) => self.ends(state, BEYOND_END),
            _ => self.ends(state, AT_END),
        }
    }

    /// The pointer is no good on this path.
    fn ends(&self, state: &mut State, range: i32) {
        let mut reg = *state.reg(self.number);
        if let Kind::Packet { meta: false, .. } = reg.kind {
            reg.kind = Kind::Packet { meta: false, range };
            state.set(self.number, reg);
        }
    }
}

/// Whether `limit` is what a pointer like `pointer` is compared with.
fn is_limit(pointer: &Reg, limit: &Reg) -> bool {
    match pointer.kind {
        Kind::Packet { meta: false, .. } => limit.kind == Kind::PacketEnd,
        Kind::Packet { meta: true, .. } => {
            matches!(limit.kind, Kind::Packet { meta: false, .. })
                && limit.id == 0
                && limit.delta == 0
                && limit.val.as_const() == Some(0)
        }
        _ => false,
    }
}

/// All bytes before `pointer`, and `more` at it, are in the packet (kernel:
/// `find_good_pkt_pointers`).
fn reaches(state: &mut State, pointer: &Reg, more: i32) {
    let Kind::Packet { meta: of_meta, .. } = pointer.kind else {
        return;
    };
    let nothing = pointer.delta < 0 || (pointer.delta == 0 && more == 1);
    // Far beyond, addresses may wrap and be below the end again.
    let far = pointer.val.umax > MAX_PACKET
        || pointer.val.umax.saturating_add_signed(pointer.delta) > MAX_PACKET;
    if nothing || far {
        return;
    }
    let reach = pointer.delta as i32 + more;
    state.each_reg(|reg| {
        if let Kind::Packet { meta, range } = &mut reg.kind
            && *meta == of_meta
            && reg.id == pointer.id
        {
            *range = (*range).max(reach);
        }
    });
}

/// `pointer op number` for addition and subtraction; `id` names the new base,
/// if there is one.
pub(super) fn moved(op: u8, pointer: &Reg, number: &Scalar, id: u32) -> Reg {
    let mut reg = *pointer;
    let Kind::Packet { range, .. } = &mut reg.kind else {
        return reg;
    };
    // Where the end is from another address nobody compared.
    *range = (*range).max(0);
    if let Some(n) = number.as_const() {
        let n = n as i64;
        let n = if op == BPF_SUB { n.wrapping_neg() } else { n };
        reg.delta = reg.delta.saturating_add(n);
        return reg;
    }
    // What is known to be there from a base is there from below it, too.
    if op == BPF_ADD || number.smin < 0 {
        *range = 0;
    }
    reg.val = super::alu::alu64(op, &pointer.val, number);
    reg.id = id;
    reg
}

/// Whether what was proven for a pointer `old` holds for `new`, but for ids.
pub(super) fn covers(old: &Reg, new: &Reg) -> bool {
    let (
        Kind::Packet { meta, range },
        Kind::Packet {
            meta: new_meta,
            range: new_range,
        },
    ) = (old.kind, new.kind)
    else {
        return false;
    };
    let ranges = if range < 0 || new_range < 0 {
        range == new_range
    } else {
        range <= new_range
    };
    meta == new_meta && ranges && old.delta == new.delta && old.val.includes(&new.val)
}

impl Walk<'_> {
    /// An access of `size` bytes through a packet pointer.
    pub(super) fn check_packet(
        &self,
        number: u8,
        reg: &Reg,
        off: i64,
        size: u32,
    ) -> Result<(), Fail> {
        let Kind::Packet { range, .. } = reg.kind else {
            return Err(Fail::eacces(format!("R{number} is no packet pointer")));
        };
        if reg.val.smin < 0 {
            return Err(Fail::eacces(format!(
                "R{number} min value is negative, either use unsigned index or do a if (index >=0) check."
            )));
        }
        let outside = format!("R{number} offset is outside of the packet");
        if range < 0 {
            return Err(Fail::einval(outside));
        }
        let at = reg.delta.saturating_add(off);
        if at < 0 || at + i64::from(size) > range.into() {
            let id = reg.id;
            return Err(Fail::eacces(format!(
                "invalid access to packet, off={at} size={size}, R{number}(id={id},off={at},r={range})\n{outside}"
            )));
        }
        Ok(())
    }

    /// `BPF_LD` of `BPF_ABS` or `BPF_IND`: a load from the packet of the ctx in
    /// r6. Behind the packet's end it ends the program with 0. No engine of
    /// ours runs it.
    pub(super) fn load_from_packet(&mut self) -> Result<(), Fail> {
        if !matches!(
            self.spec.prog_type,
            BPF_PROG_TYPE_SOCKET_FILTER | BPF_PROG_TYPE_SCHED_CLS | BPF_PROG_TYPE_SCHED_ACT
        ) {
            return Err(Fail::einval(
                "BPF_LD_[ABS|IND] instructions not allowed for this program type",
            ));
        }
        // Elsewhere it would end a function that its caller waits for.
        if self.state.frame().subprogram != 0 {
            let text = "LD_ABS is not allowed in subprograms";
            return Err(Fail::einval(text).hint("move the load to the main program"));
        }
        let ctx = self.read(6)?;
        self.check_references("BPF_LD_[ABS|IND]")?;
        if ctx.kind != Kind::Ctx {
            let text = "at the time of BPF_LD_ABS|IND R6 != pointer to skb";
            return Err(Fail::einval(text));
        }
        let insn = self.insn();
        if insn.code & 0xe0 == BPF_IND {
            self.read(insn.src())?;
        }
        super::ctx::unmodified(6, &ctx)?;
        let regs = &mut self.state.frame().regs;
        regs[..6].fill(Reg::NOT_INIT);
        regs[0] = Reg::UNKNOWN;
        Ok(())
    }

    /// A store into a packet.
    pub(super) fn may_write_packet(&self) -> Result<(), Fail> {
        match self.spec.prog_type {
            BPF_PROG_TYPE_SCHED_CLS | BPF_PROG_TYPE_SCHED_ACT | BPF_PROG_TYPE_XDP => Ok(()),
            _ => Err(Fail::eacces("cannot write into packet")),
        }
    }

    /// Whether a subprogram, or one that it calls, may move the packet.
    pub(super) fn changes_packet(&self, subprogram: usize) -> bool {
        let mut seen = vec![false; self.cfg.subprograms.len()];
        let mut waiting = vec![subprogram];
        while let Some(index) = waiting.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            let start = self.cfg.subprograms[index] as usize;
            let end = self.cfg.subprograms.get(index + 1);
            let end = end.map_or(self.spec.insns.len(), |&end| end as usize);
            for at in start..end {
                let insn = self.spec.insns[at];
                if insn.code == BPF_JMP | BPF_CALL && insn.src() == 0 {
                    let id = insn.imm as u32;
                    let row = kernel::find(id, self.spec.prog_type);
                    // A write through a dynptr changes the packet if it is one's.
                    if id == BPF_FUNC_DYNPTR_WRITE || row.is_some_and(|row| row.changes_packet) {
                        return true;
                    }
                }
                // Functions that it calls, and those that it lets call back.
                let target = names_subprogram(insn, at);
                waiting.extend(target.and_then(|target| self.cfg.subprogram_at(target as usize)));
            }
        }
        false
    }

    /// Pointers into a packet that was moved or cut are worth nothing.
    pub(super) fn clear_packets(&mut self) {
        self.state.each_reg(|reg| {
            if matches!(reg.kind, Kind::Packet { .. } | Kind::PacketEnd) {
                *reg = Reg::UNKNOWN;
            }
        });
        self.clear_packet_slices();
    }
}

/// Whether an access is aligned on a machine that cares, which puts packets'
/// starts at 2 modulo 4.
pub(super) fn is_aligned(reg: &Reg, off: i64, size: u32) -> bool {
    let fixed = reg.delta.wrapping_add(off).wrapping_add(IP_ALIGN);
    reg.val
        .bits
        .add(Tnum::known(fixed as u64))
        .is_aligned(size.into())
}
