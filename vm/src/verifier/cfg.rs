//! What must hold of the text of a program before any path is walked:
//! opcodes, reserved fields, jump targets, subprogram bounds, reachability;
//! and which registers each instruction may still need. It knows no values.

use uapi::insn::*;
use uapi::{Errno, Insn};

use super::{Env, Fail, MapInfo};
use crate::helper::kfunc::{self, IterStep, KfuncArg};
use crate::helper::{Arg, Proto};

/// Instructions that take a turn from what ends a loop (see `progress`):
/// every path leaves a checkpoint here, and may end at an open one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LoopPoint {
    No,
    /// `may_goto`, an iterator's next.
    Turn,
    /// A call of a helper that calls back.
    Callback,
}

/// Shape of a program.
pub(super) struct Cfg {
    /// First instruction of each subprogram, ascending; the first is 0.
    pub(super) subprograms: Vec<u32>,
    /// Per instruction: registers (bit n: r n) that may be read before written.
    pub(super) live: Vec<u16>,
    /// Per instruction: whether paths meet here, so that states are compared.
    pub(super) prune_point: Vec<bool>,
    /// Per instruction: whether a loop may end by running out of turns here.
    pub(super) loop_point: Vec<LoopPoint>,
    /// Maps that the text names, in order of appearance; behind them the
    /// templates of the maps in them.
    pub(super) maps: Vec<MapInfo>,
    /// How many of `maps` the text names.
    pub(super) named_maps: usize,
}

type Check<T = ()> = Result<T, (usize, Fail)>;

impl Cfg {
    pub(super) fn build(insns: &[Insn], env: &dyn Env) -> Check<Cfg> {
        if insns.is_empty() || insns.len() > BPF_COMPLEXITY_LIMIT_INSNS as usize {
            return Err((0, Fail::new(Errno::E2BIG, "program size is 0 or too large")));
        }
        let second = second_halves(insns)?;
        let mut maps: Vec<MapInfo> = Vec::new();
        let mut subprograms = vec![0u32];
        for (at, insn) in insns.iter().enumerate() {
            if second[at] {
                continue;
            }
            super::opcode::check(*insn).map_err(|f| (at, f))?;
            if let Some(target) = names_subprogram(*insn, at) {
                if target < 0 || target >= insns.len() as i64 {
                    let text = "call to invalid destination";
                    return Err((at, Fail::einval(text)));
                }
                subprograms.push(target as u32);
            }
            if is_wide(*insn) {
                super::opcode::check_wide(*insn, insns[at + 1], env, &mut maps)
                    .map_err(|f| (at, f))?;
            }
        }
        subprograms.sort_unstable();
        subprograms.dedup();
        let mut cfg = Cfg {
            subprograms,
            live: vec![0; insns.len()],
            prune_point: vec![false; insns.len()],
            loop_point: vec![LoopPoint::No; insns.len()],
            named_maps: maps.len(),
            maps: with_templates(maps),
        };
        cfg.check_subprograms(insns, &second)?;
        if !env.accepts_all_of_rfc9669() {
            cfg.check_reachable(insns, &second)?;
        }
        for at in 0..insns.len() {
            if second[at] {
                continue;
            }
            cfg.loop_point[at] = loop_point(insns[at], env);
            cfg.prune_point[at] |= cfg.loop_point[at] != LoopPoint::No;
            if let Some(target) = names_subprogram(insns[at], at) {
                cfg.prune_point[target as usize] = true;
            }
            if is_call_to_subprogram(insns[at])
                && let Some(resume) = cfg.prune_point.get_mut(at + 1)
            {
                *resume = true;
            }
        }
        cfg.mark_live(insns, env);
        Ok(cfg)
    }

    /// The maps that the program names, without the templates of others.
    pub(super) fn named(&self) -> &[MapInfo] {
        self.maps.get(..self.named_maps).unwrap_or_default()
    }

    /// The template of the maps in a map: what a lookup in it gives.
    pub(super) fn template(&self, map: u32) -> Option<u32> {
        let outer = &self.maps[..self.named_maps];
        let before = outer.get(..map as usize)?.iter();
        outer.get(map as usize)?.inner.as_ref()?;
        let templates = before.filter(|map| map.inner.is_some()).count();
        Some((self.named_maps + templates) as u32)
    }

    /// The subprogram that starts at an instruction.
    pub(super) fn subprogram_at(&self, at: usize) -> Option<usize> {
        self.subprograms.binary_search(&(at as u32)).ok()
    }

    /// Jumps stay inside their subprogram, and nothing falls out of its end.
    fn check_subprograms(&mut self, insns: &[Insn], second: &[bool]) -> Check {
        let mut ends: Vec<usize> = self.subprograms[1..].iter().map(|&s| s as usize).collect();
        ends.push(insns.len());
        for (&start, end) in self.subprograms.iter().zip(ends) {
            let start = start as usize;
            if second[start] {
                return Err((start, Fail::einval("call into the middle of ldimm64 insn")));
            }
            for at in start..end {
                if second[at] {
                    continue;
                }
                if let Some(target) = jump_target(insns[at], at) {
                    if target < start as i64 || target >= end as i64 {
                        let text = format!("jump out of range from insn {at} to {target}");
                        return Err((at, Fail::einval(text)));
                    }
                    let target = target as usize;
                    if second[target] {
                        let text = format!("jump into the middle of ldimm64 insn {target}");
                        return Err((at, Fail::einval(text)));
                    }
                    self.prune_point[target] = true;
                    if is_conditional(insns[at]) {
                        self.prune_point[at] = true;
                    }
                }
            }
            let last = insns[end - 1];
            let ends_well = !second[end - 1]
                && (last.code == BPF_JMP | BPF_EXIT
                    || last.code == BPF_JMP | BPF_JA
                    || last.code == BPF_JMP32 | BPF_JA);
            if !ends_well {
                return Err((end - 1, Fail::einval("last insn is not an exit or jmp")));
            }
        }
        Ok(())
    }

    fn check_reachable(&self, insns: &[Insn], second: &[bool]) -> Check {
        let mut seen = vec![false; insns.len()];
        let mut todo = vec![0usize];
        while let Some(at) = todo.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let insn = insns[at];
            if let Some(target) = names_subprogram(insn, at) {
                todo.push(target as usize);
            }
            if let Some(target) = jump_target(insn, at) {
                todo.push(target as usize);
            }
            if let Some(next) = falls_to(insn, at) {
                todo.push(next);
            }
        }
        match (0..insns.len()).find(|&at| !seen[at] && !second[at]) {
            Some(at) => {
                let text = format!("unreachable insn {at}");
                Err((at, Fail::einval(text)))
            }
            None => Ok(()),
        }
    }

    /// Backward data flow to a fixed point; a call needs what its callee needs.
    fn mark_live(&mut self, insns: &[Insn], env: &dyn Env) {
        let mut changed = true;
        while changed {
            changed = false;
            for at in (0..insns.len()).rev() {
                let insn = insns[at];
                let mut out = 0;
                if let Some(target) = jump_target(insn, at) {
                    out |= self.live.get(target as usize).copied().unwrap_or(0);
                }
                if let Some(next) = falls_to(insn, at) {
                    out |= self.live.get(next).copied().unwrap_or(0);
                }
                let callee = if is_call_to_subprogram(insn) {
                    let target = (at as i64 + 1 + i64::from(insn.imm)) as usize;
                    self.live[target] & 0x3e
                } else {
                    0
                };
                let (reads, writes) = registers(insn, env);
                let live = (out & !writes) | reads | callee;
                if live != self.live[at] {
                    self.live[at] = live;
                    changed = true;
                }
            }
        }
    }
}

/// Maps with the templates of the maps in them behind them, in order.
fn with_templates(mut maps: Vec<MapInfo>) -> Vec<MapInfo> {
    let inner = maps.iter().filter_map(|map| map.inner.as_deref().cloned());
    let templates: Vec<MapInfo> = inner.collect();
    maps.extend(templates);
    maps
}

/// Which slots are the second half of an `ld_imm64`.
fn second_halves(insns: &[Insn]) -> Check<Vec<bool>> {
    let mut second = vec![false; insns.len()];
    let mut at = 0;
    while at < insns.len() {
        if is_wide(insns[at]) {
            if at + 1 == insns.len() || insns[at + 1].code != 0 {
                return Err((at, Fail::einval("invalid bpf_ld_imm64 insn")));
            }
            second[at + 1] = true;
            at += 1;
        }
        at += 1;
    }
    Ok(second)
}

pub(super) fn is_wide(insn: Insn) -> bool {
    insn.code == BPF_LD | BPF_IMM | BPF_DW
}

pub(super) fn is_call_to_subprogram(insn: Insn) -> bool {
    insn.code == BPF_JMP | BPF_CALL && insn.src() == BPF_PSEUDO_CALL
}

/// The first instruction of the subprogram that an instruction calls or takes
/// the address of; may lie outside the program.
pub(super) fn names_subprogram(insn: Insn, at: usize) -> Option<i64> {
    let address = is_wide(insn) && insn.src() == BPF_PSEUDO_FUNC;
    (address || is_call_to_subprogram(insn)).then(|| at as i64 + 1 + i64::from(insn.imm))
}

pub(super) fn is_jump_class(insn: Insn) -> bool {
    matches!(insn.class(), BPF_JMP | BPF_JMP32)
}

fn is_conditional(insn: Insn) -> bool {
    is_jump_class(insn) && !matches!(insn.code & 0xf0, BPF_JA | BPF_CALL | BPF_EXIT)
}

/// Where a jump goes when it is taken; may lie outside the program.
pub(super) fn jump_target(insn: Insn, at: usize) -> Option<i64> {
    if !is_jump_class(insn) || matches!(insn.code & 0xf0, BPF_CALL | BPF_EXIT) {
        return None;
    }
    let distance = if insn.code == BPF_JMP32 | BPF_JA {
        insn.imm.into()
    } else {
        i64::from(insn.off)
    };
    Some(at as i64 + 1 + distance)
}

/// The instruction that follows when no jump is taken.
pub(super) fn falls_to(insn: Insn, at: usize) -> Option<usize> {
    if is_wide(insn) {
        return Some(at + 2);
    }
    let stops = is_jump_class(insn) && matches!(insn.code & 0xf0, BPF_JA | BPF_EXIT);
    (!stops).then_some(at + 1)
}

fn loop_point(insn: Insn, env: &dyn Env) -> LoopPoint {
    let call = insn.code == BPF_JMP | BPF_CALL;
    if insn.code == BPF_JMP | BPF_JCOND {
        LoopPoint::Turn
    } else if call && insn.src() == 0 && env.helper(insn.imm as u32).is_some_and(calls_back) {
        LoopPoint::Callback
    } else if call && insn.src() == BPF_PSEUDO_KFUNC_CALL && is_next(insn.imm as u32) {
        LoopPoint::Turn
    } else {
        LoopPoint::No
    }
}

/// Whether the kfunc asks an iterator for its next element.
fn is_next(number: u32) -> bool {
    let args = kfunc::lookup(number).map_or(&[][..], |row| row.args);
    let next = |arg: &KfuncArg| matches!(arg, KfuncArg::Iter(_, IterStep::Next));
    args.iter().any(next)
}

/// Whether the helper calls back before it returns.
fn calls_back(proto: &Proto) -> bool {
    proto.args.contains(&Arg::Func)
}

/// Registers an instruction reads and writes.
pub(super) fn registers(insn: Insn, env: &dyn Env) -> (u16, u16) {
    let (dst, src) = (1u16 << insn.dst(), 1u16 << insn.src());
    let by_reg = insn.code & BPF_X != 0;
    match insn.class() {
        BPF_LD if is_wide(insn) => (0, dst),
        // Reads the packet whose ctx is in r6, as a call does.
        BPF_LD if insn.code & 0xe0 == BPF_IND => (1 << 6 | src, 0x3f),
        BPF_LD => (1 << 6, 0x3f),
        BPF_LDX => (src, dst),
        BPF_ST => (dst, 0),
        BPF_STX => {
            let mut reads = dst | src;
            let mut writes = 0;
            if insn.code & 0xe0 == BPF_ATOMIC {
                match insn.imm {
                    BPF_CMPXCHG => {
                        reads |= 1;
                        writes = 1;
                    }
                    BPF_LOAD_ACQ => {
                        reads = src;
                        writes = dst;
                    }
                    imm if imm & BPF_FETCH != 0 => writes = src,
                    _ => {}
                }
            }
            (reads, writes)
        }
        BPF_ALU | BPF_ALU64 => match insn.code & 0xf0 {
            BPF_MOV => (if by_reg { src } else { 0 }, dst),
            BPF_NEG | BPF_END => (dst, dst),
            _ => (dst | if by_reg { src } else { 0 }, dst),
        },
        _ => match insn.code & 0xf0 {
            BPF_JA | BPF_JCOND => (0, 0),
            BPF_EXIT => (1, 0),
            BPF_CALL if insn.src() == BPF_PSEUDO_CALL => (0, 0x3f),
            BPF_CALL => {
                let number = insn.imm as u32;
                let count = if insn.src() == BPF_PSEUDO_KFUNC_CALL {
                    kfunc::lookup(number).map(|row| row.args.len())
                } else {
                    env.helper(number).map(|proto| proto.args.len())
                };
                // An unknown function fails the walk, if it is reached at all.
                (((1 << count.unwrap_or(5)) - 1) << 1, 0x3f)
            }
            _ => (dst | if by_reg { src } else { 0 }, 0),
        },
    }
}
