//! Dynptrs and iterators in the checked machine: what is where, and what is
//! an error because the verifier should have seen it. Sizes, failures and the
//! length of iterations are random.

use uapi::helper::*;
use vm::helper::kfunc::{self, IterStep, Kfunc, KfuncArg, KfuncRet};

use super::{Done, Machine, address};

/// Something that stands for more than its bytes on the stack.
#[derive(Clone, Copy)]
pub(super) enum Object {
    /// `None`: of nothing.
    DynPtr(Option<Memory>),
    Iter {
        left: usize,
        size: u64,
        element: Option<usize>,
    },
}

/// What is behind a dynptr.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    at: u64,
    size: u64,
    record: Option<usize>,
}

impl Object {
    fn size(self) -> u64 {
        match self {
            Object::DynPtr(_) => 16,
            Object::Iter { size, .. } => size,
        }
    }

    /// Whether its end must be said.
    fn is_held(self) -> bool {
        match self {
            Object::DynPtr(memory) => memory.is_some_and(|m| m.record.is_some()),
            Object::Iter { .. } => true,
        }
    }
}

impl Machine<'_> {
    /// `size` bytes at `at` are written: what lies there ends.
    pub(super) fn overwrite(&mut self, at: u64, size: u64) -> Done {
        let near = self
            .objects
            .range(at.saturating_sub(15)..at.saturating_add(size));
        let hit: Vec<u64> = near
            .filter(|(start, object)| *start + object.size() > at)
            .map(|(start, _)| *start)
            .collect();
        for start in hit {
            if self.objects.remove(&start).is_some_and(Object::is_held) {
                return Err(format!("the object at {start:#x} is overwritten"));
            }
        }
        Ok(())
    }

    /// A frame goes, with what is in it.
    pub(super) fn drop_objects(&mut self, region: usize) -> Done {
        let stack = address(region)..address(region + 1);
        let gone: Vec<u64> = self.objects.range(stack).map(|(at, _)| *at).collect();
        for at in gone {
            if let Some(Object::Iter { .. }) = self.objects.remove(&at) {
                return Err(format!("the iterator at {at:#x} is left"));
            }
        }
        Ok(())
    }

    fn place(&mut self, at: u64, object: Object) -> Done {
        self.fill(at, object.size())?;
        self.objects.insert(at, object);
        Ok(())
    }

    fn dynptr(&self, at: u64) -> Done<Option<Memory>> {
        match self.objects.get(&at) {
            Some(Object::DynPtr(memory)) => Ok(*memory),
            _ => Err(format!("no dynptr at {at:#x}")),
        }
    }

    /// The address of `len` bytes at `offset`, if it has as many.
    fn behind(&mut self, at: u64, offset: u64, len: u64) -> Done<u64> {
        let (offset, len) = (u64::from(offset as u32), u64::from(len as u32));
        let Some(memory) = self.dynptr(at)? else {
            return Ok(0);
        };
        if offset + len > memory.size {
            return Ok(0);
        }
        // The memory must still be there.
        self.bytes(memory.at + offset, len, false)?;
        Ok(memory.at + offset)
    }

    /// What a helper does with dynptrs; r0 if that is all it does.
    pub(super) fn dynptr_helper(&mut self, id: u32, args: &[u64]) -> Done<Option<u64>> {
        let fails = self.stream.below(4) == 0;
        match id {
            BPF_FUNC_DYNPTR_FROM_MEM => {
                let memory = Memory {
                    at: args[0],
                    size: args[1],
                    record: None,
                };
                self.place(args[3], Object::DynPtr((!fails).then_some(memory)))?;
            }
            BPF_FUNC_RINGBUF_RESERVE_DYNPTR => {
                let size = u64::from(args[1] as u32);
                let memory = (!fails && size <= 4096).then(|| {
                    let record = self.region(size as usize, true);
                    self.records.push(record);
                    Memory {
                        at: address(record),
                        size,
                        record: Some(record),
                    }
                });
                self.place(args[3], Object::DynPtr(memory))?;
            }
            BPF_FUNC_RINGBUF_SUBMIT_DYNPTR | BPF_FUNC_RINGBUF_DISCARD_DYNPTR => {
                if let Some(memory) = self.dynptr(args[0])? {
                    let record = memory.record.ok_or("a local dynptr is submitted")?;
                    self.give_back(address(record))?;
                }
                // Copies of it mean nothing any more.
                let record = self.dynptr(args[0])?.and_then(|m| m.record);
                self.objects.retain(|_, object| match object {
                    Object::DynPtr(Some(m)) => m.record.is_none() || m.record != record,
                    _ => true,
                });
                self.objects.remove(&args[0]);
            }
            BPF_FUNC_DYNPTR_READ => drop(self.behind(args[2], args[3], args[1])?),
            BPF_FUNC_DYNPTR_WRITE => drop(self.behind(args[0], args[1], args[3])?),
            BPF_FUNC_DYNPTR_DATA => return self.behind(args[0], args[1], args[2]).map(Some),
            _ => return Ok(None),
        }
        Ok(None)
    }

    /// A kfunc; r0.
    pub(super) fn kfunc(&mut self, number: u32) -> Done<u64> {
        let row = kfunc::lookup(number).ok_or(format!("kfunc {number}"))?;
        let args: Vec<u64> = self.regs[1..6].to_vec();
        let result = self.do_kfunc(row, &args)?;
        for n in 1..6 {
            self.regs[n] = self.stream.next();
        }
        Ok(result)
    }

    fn do_kfunc(&mut self, row: &Kfunc, args: &[u64]) -> Done<u64> {
        if let KfuncArg::Iter(of, step) = row.args[0] {
            return self.iterate(args[0], 8 * of.slots() as u64, step);
        }
        if row.args[0] == KfuncArg::Ctx {
            // There are no packets here.
            self.place(args[2], Object::DynPtr(None))?;
            return Ok(-22i64 as u64);
        }
        let memory = self.dynptr(args[0])?;
        if row.args.get(1) == Some(&KfuncArg::UninitDynPtr) {
            self.place(args[1], Object::DynPtr(memory))?;
        } else if row.name == "bpf_dynptr_adjust" && memory.is_some_and(|m| m.size > 0) {
            let cut = memory.map(|m| Memory {
                at: m.at + 1,
                size: m.size - 1,
                ..m
            });
            self.objects.insert(args[0], Object::DynPtr(cut));
        }
        match row.ret {
            KfuncRet::SliceOrNull { .. } => {
                if args[2] != 0 {
                    self.fill(args[2], u64::from(args[3] as u32))?;
                }
                self.behind(args[0], args[1], args[3])
            }
            _ => Ok(self.stream.pick(&[0, 1, self.stream.next()])),
        }
    }

    fn iterate(&mut self, at: u64, size: u64, step: IterStep) -> Done<u64> {
        if step == IterStep::New {
            let left = self.stream.below(5);
            let element = None;
            let iter = Object::Iter {
                left,
                size,
                element,
            };
            self.place(at, iter)?;
            return Ok(self.stream.pick(&[0, -22i64 as u64]));
        }
        let Some(&Object::Iter {
            left,
            size: real,
            element,
        }) = self.objects.get(&at)
        else {
            return Err(format!("no iterator at {at:#x}"));
        };
        if real != size {
            return Err(format!("another iterator at {at:#x}"));
        }
        if step == IterStep::Destroy {
            self.objects.remove(&at);
            if let Some(region) = element {
                self.regions[region].alive = false;
            }
            return Ok(self.stream.next());
        }
        if left == 0 {
            return Ok(0);
        }
        // One place for all elements, as in the kernel.
        let region = match element {
            Some(region) => region,
            None => self.region(4, false),
        };
        let iter = Object::Iter {
            left: left - 1,
            size,
            element: Some(region),
        };
        self.objects.insert(at, iter);
        Ok(address(region))
    }
}
