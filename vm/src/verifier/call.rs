//! Calls: helpers against their prototypes, subprograms by walking into them,
//! tail calls, and the way back. It knows no helper but by its row and, where
//! the kernel refines a result, by its number.

use uapi::helper::*;
use uapi::insn::*;
use uapi::map::{BPF_F_INNER_MAP, BPF_MAP_TYPE_ARRAY};
use uapi::{Errno, prog};

use super::argument::Call;
use super::fields::FieldKind;
use super::range::Scalar;
use super::state::{DynPtrType, Frame, Kind, Ref, RefKind, Reg, Sock};
use super::walk::Walk;
use super::{Fail, compat};
use crate::helper::{Proto, Ret, kernel};

/// Largest errno a helper returns negated (kernel: `MAX_ERRNO`).
const MAX_ERRNO: i64 = 4095;

impl<'a> Walk<'a> {
    /// A call in hand; the instruction to go on with.
    pub(super) fn call(&mut self) -> Result<usize, Fail> {
        let insn = self.insn();
        self.check_call_under_lock()?;
        match insn.src() {
            0 => self.call_helper(insn.imm as u32).map(|()| self.at + 1),
            BPF_PSEUDO_CALL => self.call_subprogram(),
            _ => self.call_kfunc().map(|()| self.at + 1),
        }
    }

    fn call_subprogram(&mut self) -> Result<usize, Fail> {
        let insn = self.insn();
        let target = (self.at as i64 + 1 + i64::from(insn.imm)) as usize;
        let callee = self
            .cfg
            .subprogram_at(target)
            .ok_or_else(|| Fail::einval("call to invalid destination"))?;
        self.check_exception_callback(callee)?;
        let caller = self.state.frame().subprogram;
        self.calls.insert((caller, callee));
        if let Some(function) = self.global(callee) {
            return self.call_global(callee, function);
        }
        if !self.state.can_call() {
            let text = format!(
                "the call stack of {} frames is too deep",
                MAX_CALL_FRAMES + 1
            );
            return Err(Fail::new(Errno::E2BIG, text));
        }
        let depth = self.state.frames.len() as u8;
        let mut frame = Frame::new(depth, self.at, callee);
        frame.budget.id = self.fresh_id();
        let regs = &mut self.state.frame().regs;
        frame.regs[1..6].copy_from_slice(&regs[1..6]);
        regs[..6].fill(Reg::NOT_INIT);
        self.state.frames.push(frame);
        self.trace_call();
        Ok(target)
    }

    /// `exit`: back to the caller, or the end of the path.
    pub(super) fn exit(&mut self) -> Result<Option<usize>, Fail> {
        // What a static function returns counts where it is used.
        let result = *self.state.reg(0);
        if self.state.frames.len() == 1 {
            self.read(0)?;
            self.check_references("BPF_EXIT instruction in main prog")?;
            let result = match self.state.frame().subprogram {
                0 => self.check_return(&result),
                _ => self.check_global_result(&result),
            };
            return result.map(|()| None);
        }
        if matches!(result.kind, Kind::Stack { .. }) {
            return Err(Fail::einval("cannot return stack pointer to the caller"));
        }
        self.trace_return();
        if self.state.frame().callback.is_some() {
            let next = self.return_from_callback(&result)?;
            self.trace_returned(next);
            return Ok(Some(next));
        }
        let Some(frame) = self.state.frames.pop() else {
            return Ok(None);
        };
        self.state.set(0, result);
        self.drop_dynptrs(&frame);
        let next = frame.call_site + 1;
        self.trace_returned(next);
        Ok(Some(next))
    }

    /// The range that the kernel demands of some program types' results.
    fn check_return(&mut self, result: &Reg) -> Result<(), Fail> {
        if !self.spec.is_session() {
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

    pub(super) fn check_references(&self, what: &str) -> Result<(), Fail> {
        let Some(&Ref { id, insn, kind }) = self.state.refs.first() else {
            return self.check_unlocked(what);
        };
        let text = format!(
            "Unreleased reference id={id} alloc_insn={insn}\n{what} would lead to reference leak"
        );
        Err(Fail::einval(text).hint(match kind {
            RefKind::Record => "submit or discard the ring buffer record on every path",
            RefKind::DynPtr => "submit or discard the dynptr on every path, also when it is null",
            RefKind::Iter => "destroy the iterator on every path",
            RefKind::Sock => "give the socket back with bpf_sk_release() on every path",
        }))
    }

    fn call_helper(&mut self, id: u32) -> Result<(), Fail> {
        let proto = self.helper(id)?;
        if proto.gpl_only && !self.spec.gpl {
            let text = "cannot call GPL-restricted function from non-GPL compatible program";
            return Err(Fail::einval(text));
        }
        let row = kernel::find(id, self.spec.prog_type);
        let sleepable = self.spec.prog_flags & prog::BPF_F_SLEEPABLE != 0;
        if !sleepable && row.is_some_and(|row| row.sleeps) {
            let text = "helper call might sleep in a non-sleepable prog";
            return Err(Fail::einval(text).hint("load the program with BPF_F_SLEEPABLE"));
        }
        let mut call = Call {
            helper: id,
            packet: row.is_some_and(|row| row.packet),
            ..Call::default()
        };
        for (&arg, number) in proto.args.iter().zip(1..) {
            self.check_argument(arg, number, &mut call)?;
        }
        if call.memory.is_some() {
            return Err(Fail::einval(format!(
                "prototype of bpf_{} lacks the size of its memory",
                proto.name
            )));
        }
        compat::check(proto, call.map.map(|m| self.map(m)), self.spec.prog_type)?;
        if let Some(id) = call.released
            && !self.state.release(id)
        {
            return Err(Fail::einval(format!(
                "release of unowned record by bpf_{}#{}",
                proto.name, proto.id
            )));
        }
        if id == BPF_FUNC_DYNPTR_FROM_MEM {
            let data = self.read(1)?.kind;
            if !matches!(data, Kind::MapValue { or_null: false, .. }) {
                let name = data.name();
                let text = format!("Unsupported reg type {name} for bpf_dynptr_from_mem data");
                return Err(Fail::eacces(text).hint("only map values can be behind a dynptr"));
            }
        }
        if let Some(reference) = call.released_dynptr
            && !self.release_dynptrs(reference)
        {
            return Err(Fail::einval("release of unowned dynptr"));
        }
        self.check_special(proto)?;
        if id == BPF_FUNC_TAIL_CALL {
            self.check_references("tail_call")?;
            let subprogram = self.state.frame().subprogram;
            self.tail_calls[subprogram] = true;
        }
        // What a function was given may be a packet's dynptr.
        let writes_packet = id == BPF_FUNC_DYNPTR_WRITE
            && (call.dynptr.is_some_and(|of| of.to == DynPtrType::Skb)
                || self.read(1)?.kind == Kind::ConstDynPtr);
        if writes_packet || row.is_some_and(|row| row.changes_packet) {
            self.clear_packets();
        }
        self.helpers.insert(id);
        self.call_back(id, &call)?;
        let result = self.helper_result(proto, &call)?;
        let regs = &mut self.state.frame().regs;
        regs[..6].fill(Reg::NOT_INIT);
        regs[0] = result;
        Ok(())
    }

    /// What the kernel demands of single helpers beyond their prototype.
    fn check_special(&mut self, proto: &Proto) -> Result<(), Fail> {
        match proto.id {
            BPF_FUNC_GET_FUNC_IP if self.spec.prog_type != prog::BPF_PROG_TYPE_KPROBE => {
                let text = format!(
                    "func bpf_get_func_ip#{} not supported for program type {}",
                    proto.id, self.spec.prog_type
                );
                Err(Fail::new(Errno::ENOTSUPP, text))
            }
            BPF_FUNC_SNPRINTF => {
                let size = *self.state.reg(5);
                self.need_precise(size.from);
                match size.val.as_const() {
                    Some(n) if n % 8 == 0 => Ok(()),
                    _ => Err(Fail::einval("R5 must be a constant multiple of 8")
                        .hint("the arguments are an array of 64-bit numbers")),
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether programs here, and this type of program, have the helper.
    fn helper(&self, id: u32) -> Result<&'a Proto, Fail> {
        let prog_type = self.spec.prog_type;
        let known = kernel::find(id, prog_type);
        // Kernels have it for kernel functions, where they were built so; user
        // space, which offers it, for functions that it probes and system calls.
        let overrides = id == BPF_FUNC_OVERRIDE_RETURN
            && [
                prog::BPF_PROG_TYPE_KPROBE,
                prog::BPF_PROG_TYPE_TRACEPOINT,
                prog::BPF_PROG_TYPE_RAW_TRACEPOINT,
            ]
            .contains(&prog_type);
        let has = |row: &kernel::KernelHelper| row.types.contains(prog_type) || overrides;
        match self.env.helper(id) {
            Some(proto) if known.is_none_or(has) => Ok(proto),
            _ => Err(compat::unknown_helper(id, known)),
        }
    }

    /// Whether a look-up must find a value: elements of arrays are always
    /// there. Those of per-CPU arrays are not for a run without a CPU, and a
    /// map of maps may hold an array with fewer than the template's.
    fn is_surely_there(&mut self, proto: &Proto, map: u32, call: &Call) -> bool {
        let info = self.map(map);
        let array = info.map_type == BPF_MAP_TYPE_ARRAY && info.map_flags & BPF_F_INNER_MAP == 0;
        if proto.id != BPF_FUNC_MAP_LOOKUP_ELEM || !array {
            return false;
        }
        let entries = u64::from(info.max_entries);
        let Some(key) = call.key else { return false };
        let there = key.val.as_const().is_some_and(|key| key < entries);
        if there {
            self.need_precise(key.from);
        }
        there
    }

    fn helper_result(&mut self, proto: &Proto, call: &Call) -> Result<Reg, Fail> {
        Ok(match proto.ret {
            Ret::Void => Reg::NOT_INIT,
            Ret::Scalar => match call.max_size.filter(|_| returns_length(proto.id)) {
                // The contract of these rows: the length written, or -errno.
                Some(max) => Reg::scalar(Scalar::from_signed(-MAX_ERRNO, max as i64)),
                None => Reg::UNKNOWN,
            },
            Ret::MapValueOrNull => {
                let map = call
                    .map
                    .ok_or_else(|| Fail::einval("helper returns a value of no map"))?;
                match compat::socket_in(self.map(map).map_type) {
                    Some(sock) if proto.id == BPF_FUNC_MAP_LOOKUP_ELEM => {
                        return Ok(self.socket_of_map(sock));
                    }
                    _ => {}
                }
                let kind = match self.cfg.template(map) {
                    Some(map) => Kind::MapOrNull { map },
                    None => Kind::MapValue {
                        map,
                        or_null: !self.is_surely_there(proto, map, call),
                    },
                };
                let id = self.fresh_id();
                let locked = self.map(map).fields.offset_of(FieldKind::SpinLock);
                Reg {
                    owner: if locked.is_some() { id } else { 0 },
                    ..Reg::pointer(kind, 0, id)
                }
            }
            Ret::RingbufRecordOrNull => {
                let size = call
                    .record_size
                    .ok_or_else(|| Fail::einval("helper returns a record of no size"))?;
                let id = self.take_reference(RefKind::Record);
                let kind = Kind::Record {
                    size,
                    or_null: true,
                };
                Reg::pointer(kind, 0, id)
            }
            Ret::DynPtrMemOrNull => {
                let size = call
                    .record_size
                    .ok_or_else(|| Fail::einval("helper returns a slice of no size"))?;
                self.slice(call, size, false)?
            }
            Ret::BtfId(of) => self.object_result(proto.id, of, false, call.socket),
            Ret::BtfIdOrNull(of) => self.object_result(proto.id, of, true, call.socket),
            Ret::SocketOrNull => self.socket_result(proto.id, Sock::Full, call.socket),
            Ret::SockCommonOrNull => self.socket_result(proto.id, Sock::Common, call.socket),
            Ret::TcpSockOrNull => self.socket_result(proto.id, Sock::Tcp, call.socket),
            other => {
                let text = format!(
                    "bpf_{} returns {other:?}, which cannot be verified here",
                    proto.name
                );
                return Err(Fail::einval(text));
            }
        })
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
