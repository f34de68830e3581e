//! Calls: helpers against their prototypes, subprograms by walking into them,
//! tail calls, and the way back. It knows no helper but by its row and, where
//! the kernel refines a result, by its number.

use uapi::helper::*;
use uapi::insn::*;
use uapi::map::*;
use uapi::{Errno, prog};

use super::mem::Access;
use super::range::Scalar;
use super::state::{Frame, Kind, Reg};
use super::walk::Walk;
use super::{Fail, compat};
use crate::helper::{Arg, Proto, Ret};

/// Sizes from this on count as unbounded (kernel: `BPF_MAX_VAR_SIZ`).
const MAX_SIZE: u64 = 1 << 29;
/// Largest errno a helper returns negated (kernel: `MAX_ERRNO`).
const MAX_ERRNO: i64 = 4095;

/// What the arguments of one call told.
#[derive(Default)]
struct Call {
    map: Option<u32>,
    /// Memory whose length is the next argument: register, access, NULL allowed.
    memory: Option<(u8, Access, bool)>,
    /// Upper bound of that length.
    max_size: Option<u64>,
    record_size: Option<u32>,
    released: Option<u32>,
}

impl Walk<'_> {
    /// A call in hand; the instruction to go on with.
    pub(super) fn call(&mut self) -> Result<usize, Fail> {
        let insn = self.insn();
        match insn.src() {
            0 => self.call_helper(insn.imm as u32).map(|()| self.at + 1),
            BPF_PSEUDO_CALL => self.call_subprogram(),
            _ => Err(Fail::einval("calling kernel function is not allowed")
                .hint("kernel functions do not exist in user space")),
        }
    }

    fn call_subprogram(&mut self) -> Result<usize, Fail> {
        let insn = self.insn();
        let target = (self.at as i64 + 1 + i64::from(insn.imm)) as usize;
        let callee = self
            .cfg
            .subprogram_at(target)
            .ok_or_else(|| Fail::einval("call to invalid destination"))?;
        if !self.state.can_call() {
            let text = format!(
                "the call stack of {} frames is too deep",
                MAX_CALL_FRAMES + 1
            );
            return Err(Fail::new(Errno::E2BIG, text));
        }
        let caller = self.state.frame().subprogram;
        self.calls.insert((caller, callee));
        let depth = self.state.frames.len() as u8;
        let mut frame = Frame::new(depth, self.at, callee);
        let regs = &mut self.state.frame().regs;
        frame.regs[1..6].copy_from_slice(&regs[1..6]);
        regs[..6].fill(Reg::NOT_INIT);
        self.state.frames.push(frame);
        self.trace_call();
        Ok(target)
    }

    /// `exit`: back to the caller, or the end of the path.
    pub(super) fn exit(&mut self) -> Result<Option<usize>, Fail> {
        let result = self.read(0)?;
        if self.state.frames.len() == 1 {
            self.check_references("BPF_EXIT instruction in main prog")?;
            return self.check_return(&result).map(|()| None);
        }
        if let Kind::Stack { frame } = result.kind
            && usize::from(frame) == self.state.frames.len() - 1
        {
            return Err(Fail::einval("cannot return stack pointer to the caller"));
        }
        self.trace_return();
        let Some(frame) = self.state.frames.pop() else {
            return Ok(None);
        };
        self.state.set(0, result);
        let next = frame.call_site + 1;
        self.trace_returned(next);
        Ok(Some(next))
    }

    /// The range that the kernel demands of some program types' results.
    fn check_return(&mut self, result: &Reg) -> Result<(), Fail> {
        let session = matches!(
            self.spec.expected_attach_type,
            prog::BPF_TRACE_KPROBE_SESSION | prog::BPF_TRACE_UPROBE_SESSION
        );
        if self.spec.prog_type != prog::BPF_PROG_TYPE_KPROBE || !session {
            return Ok(());
        }
        if result.kind != Kind::Scalar {
            let text = "At program exit the register R0 is not a known value (pointer)";
            return Err(Fail::einval(text));
        }
        self.need_precise(result.from);
        if result.val.umax > 1 {
            let text = "At program exit the register R0 has unknown scalar value should have been in [0, 1]";
            return Err(Fail::einval(text));
        }
        Ok(())
    }

    fn check_references(&self, what: &str) -> Result<(), Fail> {
        let Some(&(id, insn)) = self.state.refs.first() else {
            return Ok(());
        };
        let text = format!(
            "Unreleased reference id={id} alloc_insn={insn}\n{what} would lead to reference leak"
        );
        Err(Fail::einval(text).hint("submit or discard the ring buffer record on every path"))
    }

    fn call_helper(&mut self, id: u32) -> Result<(), Fail> {
        let Some(proto) = self.env.helper(id) else {
            return Err(compat::unknown_helper(id));
        };
        if proto.gpl_only && !self.spec.gpl {
            let text = "cannot call GPL-restricted function from non-GPL compatible program";
            return Err(Fail::einval(text));
        }
        let mut call = Call::default();
        for (&arg, number) in proto.args.iter().zip(1..) {
            self.check_argument(arg, number, &mut call)?;
        }
        if call.memory.is_some() {
            return Err(Fail::einval(format!(
                "prototype of bpf_{} lacks the size of its memory",
                proto.name
            )));
        }
        compat::check(proto, call.map.map(|m| self.map(m)))?;
        if let Some(id) = call.released
            && !self.state.release(id)
        {
            return Err(Fail::einval(format!(
                "release of unowned record by bpf_{}#{}",
                proto.name, proto.id
            )));
        }
        if id == BPF_FUNC_TAIL_CALL {
            self.check_references("tail_call")?;
            let subprogram = self.state.frame().subprogram;
            self.tail_calls[subprogram] = true;
        }
        self.helpers.insert(id);
        let result = self.helper_result(proto, &call)?;
        let regs = &mut self.state.frame().regs;
        regs[..6].fill(Reg::NOT_INIT);
        regs[0] = result;
        Ok(())
    }

    fn helper_result(&mut self, proto: &Proto, call: &Call) -> Result<Reg, Fail> {
        Ok(match proto.ret {
            Ret::Void => Reg::NOT_INIT,
            Ret::Scalar | Ret::Opaque => match call.max_size.filter(|_| returns_length(proto.id)) {
                // The contract of these rows: the length written, or -errno.
                Some(max) => Reg::scalar(Scalar::from_signed(-MAX_ERRNO, max as i64)),
                None => Reg::UNKNOWN,
            },
            Ret::MapValueOrNull => {
                let map = call
                    .map
                    .ok_or_else(|| Fail::einval("helper returns a value of no map"))?;
                let kind = Kind::MapValue { map, or_null: true };
                Reg::pointer(kind, 0, self.fresh_id())
            }
            Ret::RingbufRecordOrNull => {
                let size = call
                    .record_size
                    .ok_or_else(|| Fail::einval("helper returns a record of no size"))?;
                let id = self.fresh_id();
                let at = self.at;
                self.state.refs.push((id, at));
                let kind = Kind::Record {
                    size,
                    or_null: true,
                };
                Reg::pointer(kind, 0, id)
            }
        })
    }

    fn check_argument(&mut self, arg: Arg, number: u8, call: &mut Call) -> Result<(), Fail> {
        let reg = self.read(number)?;
        let wrong = |expected: &str| {
            let text = format!("R{number} type={} expected={expected}", reg.kind.name());
            Err(Fail::eacces(text))
        };
        match arg {
            Arg::Anything => Ok(()),
            Arg::Scalar if reg.kind == Kind::Scalar => Ok(()),
            Arg::Scalar => wrong("scalar"),
            Arg::Ctx => match reg.kind {
                Kind::Ctx if reg.val.as_const() == Some(0) => Ok(()),
                Kind::Ctx => Err(Fail::eacces(format!(
                    "dereference of modified ctx ptr R{number} disallowed"
                ))),
                _ => wrong("ctx"),
            },
            Arg::Map => match reg.kind {
                Kind::Map { map } => {
                    call.map = Some(map);
                    Ok(())
                }
                _ => wrong("map_ptr"),
            },
            Arg::MapKey | Arg::MapValue | Arg::UninitMapValue => {
                let Some(map) = call.map else {
                    return Err(Fail::eacces("invalid map_ptr to access map->key"));
                };
                let info = self.map(map);
                let (size, access) = match arg {
                    Arg::MapKey => (info.key_size, Access::Read),
                    Arg::MapValue => (info.value_size, Access::Read),
                    _ => (info.value_size, Access::Write),
                };
                self.helper_memory(number, &reg, size, access)
            }
            Arg::Mem | Arg::MemOrNull | Arg::UninitMem => {
                let or_null = arg == Arg::MemOrNull;
                let access = if arg == Arg::UninitMem {
                    Access::Write
                } else {
                    Access::Read
                };
                if or_null && reg.is_null() {
                    self.need_precise(reg.from);
                } else {
                    expect_memory(number, &reg)?;
                }
                call.memory = Some((number, access, or_null));
                Ok(())
            }
            Arg::Size | Arg::SizeOrZero => self.check_size(arg, number, &reg, call),
            Arg::RingbufRecord => match reg.kind {
                Kind::Record { or_null: false, .. } if reg.val.as_const() == Some(0) => {
                    call.released = Some(reg.id);
                    Ok(())
                }
                Kind::Record { or_null: false, .. } => Err(Fail::einval(format!(
                    "R{number} must have zero offset when passed to release func"
                ))),
                _ => wrong("ringbuf_mem"),
            },
            Arg::ConstAllocSize => {
                let size = (reg.kind == Kind::Scalar).then(|| reg.val.as_const());
                let size = size.flatten().and_then(|n| u32::try_from(n).ok());
                call.record_size = size;
                self.need_precise(reg.from);
                match size {
                    Some(_) => Ok(()),
                    None => {
                        let text = format!("R{number} unbounded size, use a constant below 4 GiB");
                        Err(Fail::eacces(text))
                    }
                }
            }
            Arg::ConstStr => self.check_string(number, &reg),
            Arg::Func | Arg::StackOrNull => Err(Fail::einval(
                "callbacks are not supported; write the loop in the program instead",
            )),
        }
    }

    fn check_size(&mut self, arg: Arg, number: u8, reg: &Reg, call: &mut Call) -> Result<(), Fail> {
        let Some((memory, access, _)) = call.memory.take() else {
            return Err(Fail::einval("helper prototype has a size without memory"));
        };
        if reg.kind != Kind::Scalar {
            let text = format!("R{number} type={} expected=scalar", reg.kind.name());
            return Err(Fail::eacces(text));
        }
        self.need_precise(reg.from);
        if reg.val.smin < 0 {
            let text =
                format!("R{number} min value is negative, either use unsigned or 'var &= const'");
            return Err(Fail::eacces(text));
        }
        if reg.val.umin == 0 && arg == Arg::Size {
            let text = format!(
                "R{number} invalid zero-sized read: u64=[{},{}]",
                reg.val.umin, reg.val.umax
            );
            return Err(Fail::eacces(text));
        }
        if reg.val.umax >= MAX_SIZE {
            let text = format!(
                "R{number} unbounded memory access, use 'var &= const' or 'if (var < const)'"
            );
            return Err(Fail::eacces(text));
        }
        call.max_size = Some(reg.val.umax);
        let address = self.read(memory)?;
        if address.is_null() {
            self.need_precise(address.from);
            if reg.val.umax == 0 {
                return Ok(());
            }
            let text = format!("R{memory} type=scalar expected=fp, map_value, ringbuf_mem");
            return Err(Fail::eacces(text));
        }
        self.helper_memory(memory, &address, reg.val.umax as u32, access)
    }

    /// Memory of at most `size` bytes that a helper reads or writes.
    fn helper_memory(
        &mut self,
        number: u8,
        reg: &Reg,
        size: u32,
        access: Access,
    ) -> Result<(), Fail> {
        expect_memory(number, reg)?;
        match reg.kind {
            Kind::Stack { frame } => self.helper_stack(number, reg, frame, size, access),
            _ => self.check_memory(number, reg, 0, size, access),
        }
    }

    /// A string whose bytes cannot change and whose end is known.
    fn check_string(&self, number: u8, reg: &Reg) -> Result<(), Fail> {
        let Kind::MapValue {
            map,
            or_null: false,
        } = reg.kind
        else {
            let text = format!("R{number} type={} expected=map_value", reg.kind.name());
            return Err(Fail::eacces(text));
        };
        let info = self.map(map);
        let fixed = info.map_flags & BPF_F_RDONLY_PROG != 0 && info.max_entries == 1;
        let Some(bytes) = info.rodata.as_ref().filter(|_| fixed) else {
            let text = format!("R{number} does not point to a readonly map'");
            return Err(Fail::eacces(text));
        };
        let Some(start) = reg.val.as_const() else {
            let text = format!("R{number} is not a constant address'");
            return Err(Fail::eacces(text));
        };
        let tail = usize::try_from(start).ok().and_then(|s| bytes.get(s..));
        match tail {
            Some(tail) if tail.contains(&0) => Ok(()),
            _ => Err(Fail::einval("string is not zero-terminated")),
        }
    }
}

fn expect_memory(number: u8, reg: &Reg) -> Result<(), Fail> {
    match reg.kind {
        Kind::Stack { .. }
        | Kind::MapValue { or_null: false, .. }
        | Kind::Record { or_null: false, .. } => Ok(()),
        kind => {
            let text = format!(
                "R{number} type={} expected=fp, map_value, ringbuf_mem",
                kind.name()
            );
            let fail = Fail::eacces(text);
            Err(if kind.or_null() {
                fail.hint("compare the pointer with NULL first")
            } else {
                fail
            })
        }
    }
}

/// Helpers that return how many bytes they wrote, at most the size they were
/// given, or a negative errno (kernel: `do_refine_retval_range`).
fn returns_length(id: u32) -> bool {
    matches!(
        id,
        BPF_FUNC_GET_STACK
            | BPF_FUNC_GET_TASK_STACK
            | BPF_FUNC_PROBE_READ_STR
            | BPF_FUNC_PROBE_READ_KERNEL_STR
            | BPF_FUNC_PROBE_READ_USER_STR
    )
}
