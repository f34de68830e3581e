//! A program with its names resolved: what both engines run. It knows no
//! machine; an engine needs no further check of jumps, calls or names.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use uapi::helper::{BPF_FUNC_MAP_LOOKUP_ELEM, BPF_FUNC_MAP_UPDATE_ELEM, BPF_FUNC_TAIL_CALL};
use uapi::insn::MAX_BPF_STACK;

use super::{ArrayLayout, Direct, HelperFn, Linker, TailCallFn};
use crate::op::{DecodeError, Imm64, Op, Reg};
use crate::{Facts, VerifiedProgram};

/// Why a verified program cannot run in this process.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The slot holds no instruction, yet the verifier reached it.
    #[error("insn {insn}: {source}")]
    Decode {
        /// Slot number.
        insn: usize,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The linker knows no such map.
    #[error("insn {insn}: no map {id}")]
    Map {
        /// Slot number.
        insn: usize,
        /// Object id of the map.
        id: u32,
    },
    /// The map has no value area, or the offset lies outside.
    #[error("insn {insn}: no value at offset {offset} of map {id}")]
    MapValue {
        /// Slot number.
        insn: usize,
        /// Object id of the map.
        id: u32,
        /// Bytes into the value area.
        offset: u32,
    },
    /// The linker knows no such helper.
    #[error("insn {insn}: no helper {id}")]
    Helper {
        /// Slot number.
        insn: usize,
        /// `BPF_FUNC_*`.
        id: u32,
    },
    /// The linker knows no such kfunc.
    #[error("insn {insn}: no kfunc {number}")]
    Kfunc {
        /// Slot number.
        insn: usize,
        /// Number of the kfunc.
        number: u32,
    },
    /// A jump, call or function reference leads out of the program, into the
    /// middle of an instruction or into another subprogram, or the last
    /// instruction of a subprogram falls through.
    #[error("insn {insn}: control leaves the subprogram")]
    Target {
        /// Slot number.
        insn: usize,
    },
    /// A callback makes a tail call. Nothing would bound the nesting, as the
    /// count of tail calls does not pass through the helper in between.
    #[error("insn {insn}: tail call in a callback")]
    TailCallInCallback {
        /// First slot of the callback.
        insn: usize,
    },
    /// The program has more callbacks than the interpreter has entries for.
    #[error("more than {max} callbacks")]
    Callbacks {
        /// The most there may be.
        max: usize,
    },
    /// Memory for code could not be had.
    #[error("code memory: errno {0}")]
    Memory(i32),
    /// The program is longer than a near jump reaches.
    #[error("machine code too large")]
    TooLarge,
}

/// One slot of a linked program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// An instruction that needs no name. Never `LoadImm`, `CallHelper` or
    /// `CallKfunc`.
    Op(Op),
    /// `dst = value`, from any kind of `ld_imm64` but `Func`.
    Const { dst: Reg, value: u64 },
    /// `dst` = address of the callback at this slot.
    Func { dst: Reg, slot: usize },
    /// Call of a helper, or of a kfunc, which has no id.
    Helper { id: Option<u32>, call: HelperFn },
    /// `bpf_tail_call`.
    TailCall(TailCallFn),
    /// Second slot of `ld_imm64`.
    Skip,
    /// No path leads here; the slot may hold anything.
    Unreachable,
}

/// A function of a linked program.
#[derive(Clone, Debug)]
pub(crate) struct Subprogram {
    /// Its slots.
    pub slots: Range<usize>,
    /// Bytes of stack that it uses at most.
    pub stack_bytes: u32,
}

/// A linked program.
#[derive(Debug)]
pub(crate) struct Code {
    /// One step per slot.
    pub steps: Box<[Step]>,
    /// The subprograms, in order; their slots are together all slots.
    pub subprograms: Vec<Subprogram>,
    /// First slots of subprograms whose address is taken, ascending.
    pub callbacks: Vec<usize>,
    /// Register values of maps, and where they have their elements.
    arrays: Vec<(u64, ArrayLayout)>,
    /// Register values of maps, helpers, and what does their work there.
    directs: Vec<(u64, u32, Direct)>,
}

/// Helpers that a map may have something quicker for.
const DIRECT: [u32; 2] = [BPF_FUNC_MAP_LOOKUP_ELEM, BPF_FUNC_MAP_UPDATE_ELEM];

impl Code {
    /// Decodes and links every instruction that can be reached.
    pub fn link(program: &VerifiedProgram, linker: &dyn Linker) -> Result<Code, LinkError> {
        let insns = program.insns();
        let unreachable = &program.facts().unreachable;
        let mut steps = Vec::with_capacity(insns.len());
        let mut callbacks = BTreeSet::new();
        let mut starts = BTreeSet::from([0]);
        let mut maps: BTreeMap<u32, u64> = BTreeMap::new();
        while steps.len() < insns.len() {
            let at = steps.len();
            if unreachable.binary_search(&(at as u32)).is_ok() {
                steps.push(Step::Unreachable);
                continue;
            }
            let op = Op::decode(insns[at], insns.get(at + 1).copied())
                .map_err(|source| LinkError::Decode { insn: at, source })?;
            let step = link_op(op, at, linker)?;
            if let (
                Op::LoadImm {
                    imm: Imm64::Map(id),
                    ..
                },
                Step::Const { value, .. },
            ) = (op, step)
            {
                maps.insert(id, value);
            }
            steps.push(step);
            if op.slots() == 2 {
                steps.push(Step::Skip);
            }
            let start = match steps[at] {
                Step::Func { slot, .. } => {
                    callbacks.insert(slot);
                    slot
                }
                Step::Op(Op::CallSub { rel }) => target(at, rel)?,
                _ => continue,
            };
            if start >= insns.len() {
                return Err(LinkError::Target { insn: at });
            }
            starts.insert(start);
        }
        let starts: Vec<usize> = starts.into_iter().collect();
        let ends = starts.iter().skip(1).copied().chain([insns.len()]);
        let subprograms = starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| Subprogram {
                slots: start..end,
                stack_bytes: stack_bytes(program.facts(), start),
            })
            .collect();
        let code = Code {
            steps: steps.into(),
            subprograms,
            callbacks: callbacks.into_iter().collect(),
            arrays: maps
                .iter()
                .filter_map(|(&id, &value)| Some((value, linker.array(id)?)))
                .collect(),
            directs: maps
                .iter()
                .flat_map(|map| DIRECT.map(|helper| (map, helper)))
                .filter_map(|((&id, &value), helper)| {
                    Some((value, helper, linker.direct(id, helper)?))
                })
                .collect(),
        };
        code.check_control()?;
        code.check_callbacks()?;
        Ok(code)
    }

    /// Whether any instruction makes a tail call.
    pub fn has_tail_call(&self) -> bool {
        self.steps.iter().any(|s| matches!(s, Step::TailCall(_)))
    }

    /// Where the map with this register value has its elements, if it is an
    /// array that says so.
    pub fn array(&self, map: u64) -> Option<ArrayLayout> {
        let known = self.arrays.iter().find(|(value, _)| *value == map);
        known.map(|&(_, layout)| layout)
    }

    /// What does a helper's work for the map with this register value, if
    /// there is something quicker.
    pub fn direct(&self, map: u64, helper: u32) -> Option<Direct> {
        let is_it = |&&(value, id, _): &&(u64, u32, Direct)| (value, id) == (map, helper);
        self.directs
            .iter()
            .find(is_it)
            .map(|&(_, _, direct)| direct)
    }

    /// The subprogram that starts at this slot. Every target of a call or
    /// function reference does start one.
    pub fn subprogram_at(&self, slot: usize) -> usize {
        self.subprograms.partition_point(|s| s.slots.start < slot)
    }

    /// Every jump stays in its subprogram and reaches a whole instruction;
    /// no subprogram falls through its end.
    fn check_control(&self) -> Result<(), LinkError> {
        for Subprogram { slots: range, .. } in &self.subprograms {
            let lands = |at: usize, rel: i32| {
                let to = target(at, rel)?;
                let whole = range.contains(&to) && !matches!(self.steps[to], Step::Skip);
                if whole {
                    Ok(())
                } else {
                    Err(LinkError::Target { insn: at })
                }
            };
            let Some(last) = range.clone().last() else {
                return Err(LinkError::Target { insn: range.start });
            };
            if matches!(self.steps[range.start], Step::Skip) {
                return Err(LinkError::Target { insn: range.start });
            }
            for at in range.clone() {
                match self.steps[at] {
                    Step::Op(Op::Jump { rel, .. }) => lands(at, rel)?,
                    Step::Op(Op::Branch { rel, .. } | Op::MayGoto { rel }) => {
                        lands(at, rel.into())?;
                    }
                    _ => {}
                }
            }
            match self.steps[last] {
                Step::Op(Op::Exit | Op::Jump { .. }) | Step::Unreachable => {}
                _ => return Err(LinkError::Target { insn: last }),
            }
        }
        Ok(())
    }

    /// No tail call can be reached from a callback.
    fn check_callbacks(&self) -> Result<(), LinkError> {
        for &callback in &self.callbacks {
            let mut seen = BTreeSet::new();
            let mut pending = vec![self.subprogram_at(callback)];
            while let Some(index) = pending.pop() {
                if !seen.insert(index) {
                    continue;
                }
                for at in self.subprograms[index].slots.clone() {
                    match self.steps[at] {
                        Step::TailCall(_) => {
                            return Err(LinkError::TailCallInCallback { insn: callback });
                        }
                        Step::Op(Op::CallSub { rel }) => {
                            pending.push(self.subprogram_at(target(at, rel)?));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// What the verifier says of the frame of the subprogram at `start`; the most
/// a frame can have if it says nothing.
fn stack_bytes(facts: &Facts, start: usize) -> u32 {
    let index = facts.subprograms.binary_search(&(start as u32)).ok();
    let known = index.and_then(|index| facts.frame_bytes.get(index).copied());
    known.unwrap_or(MAX_BPF_STACK).min(MAX_BPF_STACK)
}

/// The slot a relative target means.
pub(crate) fn target(at: usize, rel: i32) -> Result<usize, LinkError> {
    usize::try_from(at as i64 + 1 + i64::from(rel)).map_err(|_| LinkError::Target { insn: at })
}

fn link_op(op: Op, at: usize, linker: &dyn Linker) -> Result<Step, LinkError> {
    Ok(match op {
        Op::LoadImm { dst, imm } => match imm {
            Imm64::Value(value) => Step::Const { dst, value },
            Imm64::Map(id) => {
                let value = linker.map(id).ok_or(LinkError::Map { insn: at, id })?;
                Step::Const { dst, value }
            }
            Imm64::MapValue { map, offset } => {
                let value = linker.map_value(map, offset);
                let error = LinkError::MapValue {
                    insn: at,
                    id: map,
                    offset,
                };
                Step::Const {
                    dst,
                    value: value.ok_or(error)?,
                }
            }
            Imm64::Func(rel) => Step::Func {
                dst,
                slot: target(at, rel)?,
            },
        },
        Op::CallHelper {
            id: BPF_FUNC_TAIL_CALL,
        } => Step::TailCall(linker.tail_call()),
        Op::CallHelper { id } => Step::Helper {
            id: Some(id),
            call: linker
                .helper(id)
                .ok_or(LinkError::Helper { insn: at, id })?,
        },
        Op::CallKfunc { number } => Step::Helper {
            id: None,
            call: linker
                .kfunc(number)
                .ok_or(LinkError::Kfunc { insn: at, number })?,
        },
        other => Step::Op(other),
    })
}
