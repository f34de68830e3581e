//! Calls of kfuncs: arguments against the row in [`crate::helper::kfunc`],
//! and what comes back (kernel: `check_kfunc_args`, `check_kfunc_call`). It
//! knows no kernel's BTF; a call carries a row's number.

use uapi::Errno;
use uapi::prog::*;

use super::Fail;
use super::argument::Call;
use super::iter::Iter;
use super::mem::Access;
use super::state::{DynPtrType, Kind, Reg};
use super::walk::Walk;
use crate::helper::kfunc::{self, Kfunc, KfuncArg, KfuncRet};

/// Bytes of an iterator's element, an `int`.
const INT: u32 = 4;
/// Bytes of a session's cookie.
const WORD: u32 = 8;

impl Walk<'_> {
    /// The kfunc call in hand.
    pub(super) fn call_kfunc(&mut self) -> Result<(), Fail> {
        let row = self.kfunc_row(self.insn().imm as u32)?;
        if !self.spec.gpl {
            let text = "cannot call kernel function from non-GPL compatible program";
            return Err(Fail::einval(text));
        }
        if row.ret == (KfuncRet::SliceOrNull { read_only: false }) && !self.writes_packets() {
            let text = "the prog does not allow writes to packet data";
            return Err(Fail::einval(text).hint("use bpf_dynptr_data to write through a dynptr"));
        }
        let mut call = Call::default();
        let mut iter = None;
        for (&arg, number) in row.args.iter().zip(1..) {
            if let Some(found) = self.kfunc_argument(arg, number, &mut call)? {
                iter = Some(found);
            }
        }
        let result = match row.ret {
            KfuncRet::Void => Reg::NOT_INIT,
            KfuncRet::Scalar => Reg::UNKNOWN,
            KfuncRet::IntOrNull => {
                let kind = Kind::Mem {
                    size: INT,
                    read_only: true,
                    or_null: true,
                };
                Reg {
                    owner: iter.map_or(0, |iter: Iter| iter.reference),
                    ..Reg::pointer(kind, 0, self.fresh_id())
                }
            }
            KfuncRet::SliceOrNull { read_only } => {
                let size = call.record_size.unwrap_or(0);
                self.slice(&call, size, read_only)?
            }
            KfuncRet::Word => {
                let kind = Kind::Mem {
                    size: WORD,
                    read_only: false,
                    or_null: false,
                };
                Reg::pointer(kind, 0, 0)
            }
        };
        let regs = &mut self.state.frame().regs;
        regs[..6].fill(Reg::NOT_INIT);
        regs[0] = result;
        match iter {
            Some(iter) => self.iter_next(iter, result),
            None => Ok(()),
        }
    }

    fn kfunc_row(&self, number: u32) -> Result<&'static Kfunc, Fail> {
        let row = kfunc::lookup(number);
        let allowed = |row: &&Kfunc| {
            let types = row.types;
            types.is_none_or(|types| types.contains(&self.spec.prog_type))
                && (!row.for_sessions || self.spec.is_session())
        };
        if let Some(row) = row.filter(allowed) {
            return Ok(row);
        }
        if number == 0 {
            let text = "invalid kernel function call not eliminated in verifier pass";
            return Err(Fail::einval(text).hint("test with bpf_ksym_exists before calling it"));
        }
        let names = &self.spec.info.unknown_kfuncs;
        let name = names.iter().find(|(at, _)| *at as usize == self.at);
        let name = match row {
            Some(row) => row.name,
            None => name.map_or("unknown", |(_, name)| name),
        };
        let text = format!("calling kernel function {name} is not allowed");
        Err(Fail::eacces(text).hint(feature(name)))
    }

    /// Whether programs of this type may write packets (kernel:
    /// `may_access_direct_pkt_data`).
    fn writes_packets(&self) -> bool {
        matches!(
            self.spec.prog_type,
            BPF_PROG_TYPE_SCHED_CLS | BPF_PROG_TYPE_SCHED_ACT | BPF_PROG_TYPE_XDP
        )
    }

    /// Checks one argument; an iterator of which the next element is asked.
    fn kfunc_argument(
        &mut self,
        arg: KfuncArg,
        number: u8,
        call: &mut Call,
    ) -> Result<Option<Iter>, Fail> {
        let reg = self.read(number)?;
        match arg {
            KfuncArg::Untrusted => {}
            KfuncArg::Scalar if reg.kind == Kind::Scalar => {}
            KfuncArg::Scalar => {
                return Err(Fail::einval(format!("R{number} is not a scalar")));
            }
            KfuncArg::DynPtr => call.dynptr = Some(self.dynptr_argument(number, None)?),
            KfuncArg::UninitDynPtr => {
                let of = call
                    .dynptr
                    .ok_or_else(|| Fail::einval("a copy of no dynptr"))?;
                self.make_dynptr(number, of.to, Some(of.reference))?;
            }
            KfuncArg::Ctx if reg.kind == Kind::Ctx && reg.val.as_const() == Some(0) => {}
            KfuncArg::Ctx => {
                let (argument, name) = (number - 1, reg.kind.name());
                let text = format!("arg#{argument} expected pointer to ctx, but got {name}");
                return Err(Fail::einval(text));
            }
            KfuncArg::UninitPacketDynPtr => {
                let to = match self.spec.prog_type {
                    BPF_PROG_TYPE_XDP => DynPtrType::Xdp,
                    _ => DynPtrType::Skb,
                };
                self.make_dynptr(number, to, None)?;
            }
            KfuncArg::Iter(of, step) => return self.iter_argument(number, of, step),
            KfuncArg::BufferOrNull => call.buffer = Some(number),
            KfuncArg::BufferSize => self.kfunc_buffer(number, &reg, call)?,
        }
        Ok(None)
    }

    /// The size of a buffer, and with it the buffer (kernel:
    /// `check_kfunc_mem_size_reg`): it is read and written.
    fn kfunc_buffer(&mut self, number: u8, size: &Reg, call: &mut Call) -> Result<(), Fail> {
        let buffer = call
            .buffer
            .take()
            .ok_or_else(|| Fail::einval("a size without a buffer"))?;
        let memory = self.read(buffer)?;
        if size.kind != Kind::Scalar {
            return Err(Fail::einval(format!("R{number} is not a scalar")));
        }
        if memory.is_null() {
            self.need_precise(memory.from);
        } else {
            for access in [Access::Read, Access::Write] {
                self.sized_memory(buffer, number, size, access)
                    .map_err(|fail| {
                        let (first, second) = (buffer - 1, number - 1);
                        let text = format!(
                            "{}\narg#{first} arg#{second} memory, len pair leads to invalid memory access",
                            fail.text
                        );
                        Fail {
                            errno: Errno::EINVAL,
                            text,
                            ..fail
                        }
                    })?;
            }
        }
        self.need_precise(size.from);
        let Some(bytes) = size.val.as_const() else {
            let text = format!("R{number} must be a known constant");
            return Err(Fail::einval(text));
        };
        // The kfunc takes 32 bits of it.
        call.record_size = Some(bytes as u32);
        Ok(())
    }
}

/// What a kernel function that nobody hosts belongs to.
fn feature(name: &str) -> &'static str {
    let features: [(&str, &[&str]); 10] = [
        (
            "only programs loaded for BPF_TRACE_UPROBE_SESSION have a session",
            &["bpf_session_"],
        ),
        ("exceptions do not exist in user space", &["bpf_throw"]),
        (
            "objects of programs, their lists and trees do not exist in user space",
            &[
                "bpf_obj_",
                "bpf_percpu_obj_",
                "bpf_refcount_",
                "bpf_list_",
                "bpf_rbtree_",
            ],
        ),
        ("arenas do not exist in user space", &["bpf_arena_"]),
        (
            "resilient spin locks do not exist in user space",
            &["bpf_res_spin_"],
        ),
        (
            "nothing in user space is under RCU, leave the section out",
            &["bpf_rcu_read_"],
        ),
        (
            "preemption and interrupts are the kernel's",
            &["bpf_preempt_", "bpf_local_irq_"],
        ),
        (
            "this type of program has no such packet",
            &["bpf_dynptr_from_"],
        ),
        (
            "only number and bits iterators exist in user space",
            &["bpf_iter_"],
        ),
        (
            "there are no kernel objects in user space",
            &[
                "bpf_task_",
                "bpf_cgroup_",
                "bpf_cast_to_",
                "bpf_rdonly_cast",
            ],
        ),
    ];
    let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let found = features.iter().find(|(_, prefixes)| of(prefixes));
    found.map_or("this kernel function does not exist in user space", |f| f.0)
}
