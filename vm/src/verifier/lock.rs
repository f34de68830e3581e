//! Special parts of map values: nobody touches them but the helpers that they
//! are for, and a spin lock is held alone and briefly (kernel:
//! `process_spin_lock`, `check_map_access`, `check_map_prog_compatibility`).
//! It knows no lock's code.

use uapi::helper::BPF_FUNC_SPIN_UNLOCK;
use uapi::insn::{BPF_PSEUDO_CALL, BPF_PSEUDO_KFUNC_CALL};
use uapi::prog::*;

use super::fields::FieldKind;
use super::state::{Kind, Reg};
use super::walk::Walk;
use super::{Fail, MapInfo};

/// The spin lock that a program holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lock {
    pub(super) map: u32,
    /// Which value of the map it lies in; 0 for that of a map with one entry.
    pub(super) value: u32,
}

impl FieldKind {
    fn name(self) -> &'static str {
        match self {
            FieldKind::SpinLock => "bpf_spin_lock",
            FieldKind::ResSpinLock => "bpf_res_spin_lock",
            FieldKind::Timer => "bpf_timer",
            FieldKind::Workqueue => "bpf_wq",
            FieldKind::TaskWork => "bpf_task_work",
            FieldKind::Kptr => "kptr",
            FieldKind::ListHead => "bpf_list_head",
            FieldKind::RbRoot => "bpf_rb_root",
            FieldKind::Refcount => "bpf_refcount",
        }
    }
}

/// Whether programs of a type may name maps with such values.
pub(super) fn check_maps(prog_type: u32, maps: &[MapInfo]) -> Result<(), Fail> {
    let is_tracing = matches!(
        prog_type,
        BPF_PROG_TYPE_KPROBE
            | BPF_PROG_TYPE_TRACEPOINT
            | BPF_PROG_TYPE_PERF_EVENT
            | BPF_PROG_TYPE_RAW_TRACEPOINT
            | BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE
    );
    for field in maps.iter().flat_map(|map| &map.fields.list) {
        let what = match field.kind {
            FieldKind::ListHead | FieldKind::RbRoot => "bpf_{list_head,rb_root}",
            FieldKind::SpinLock | FieldKind::ResSpinLock => "bpf_spin_lock",
            FieldKind::Timer => "bpf_timer",
            FieldKind::Workqueue => "bpf_wq",
            FieldKind::TaskWork | FieldKind::Kptr | FieldKind::Refcount => continue,
        };
        let hint = match field.kind {
            FieldKind::Timer | FieldKind::Workqueue => {
                "nor in the kernel; let the tool look at the map from time to time"
            }
            FieldKind::ListHead | FieldKind::RbRoot => "nor in the kernel; use another map",
            _ => "use atomic instructions on the value instead",
        };
        if is_tracing {
            let text = format!("tracing progs cannot use {what} yet");
            return Err(Fail::einval(text).hint(hint));
        }
        if what == "bpf_spin_lock" && prog_type == BPF_PROG_TYPE_SOCKET_FILTER {
            let text = "socket filter progs cannot use bpf_spin_lock yet";
            return Err(Fail::einval(text).hint(hint));
        }
    }
    Ok(())
}

/// Bytes of a map value that only certain helpers may touch.
pub(super) fn check_fields(map: &MapInfo, reg: &Reg, off: i64, size: u32) -> Result<(), Fail> {
    let start = reg.val.smin.saturating_add(off);
    let end = i64::try_from(reg.val.umax).unwrap_or(i64::MAX);
    let end = end.saturating_add(off).saturating_add(size.into());
    let Some(field) = map.fields.touched(start, end) else {
        return Ok(());
    };
    let name = field.kind.name();
    let text = match field.kind {
        FieldKind::Kptr => format!("{name} cannot be accessed in user space"),
        _ => format!("{name} cannot be accessed directly by load/store"),
    };
    Err(Fail::eacces(text))
}

impl Walk<'_> {
    /// Calls that may be made while a lock is held.
    pub(super) fn check_call_under_lock(&self) -> Result<(), Fail> {
        let insn = self.insn();
        let allowed = match insn.src() {
            _ if self.state.lock.is_none() => true,
            0 => insn.imm as u32 == BPF_FUNC_SPIN_UNLOCK,
            BPF_PSEUDO_KFUNC_CALL => false,
            BPF_PSEUDO_CALL => return Ok(()),
            _ => false,
        };
        if allowed {
            return Ok(());
        }
        let text = "function calls are not allowed while holding a lock";
        Err(Fail::einval(text).hint("call bpf_spin_unlock first"))
    }

    /// Nothing is locked where `what` stands.
    pub(super) fn check_unlocked(&self, what: &str) -> Result<(), Fail> {
        if self.state.lock.is_none() {
            return Ok(());
        }
        let text = format!("{what} cannot be used inside bpf_spin_lock-ed region");
        Err(Fail::einval(text).hint("call bpf_spin_unlock on every path"))
    }

    /// The argument of `bpf_spin_lock` and `bpf_spin_unlock`.
    pub(super) fn spin_lock(&mut self, number: u8, unlocks: bool) -> Result<(), Fail> {
        let reg = self.read(number)?;
        let Kind::MapValue {
            map,
            or_null: false,
        } = reg.kind
        else {
            let name = reg.kind.name();
            let text = format!("R{number} type={name} expected=map_value, ptr_");
            return Err(Fail::eacces(text));
        };
        let Some(at) = reg.val.as_const() else {
            return Err(Fail::einval(format!(
                "R{number} doesn't have constant offset. bpf_spin_lock has to be at the constant offset"
            )));
        };
        let info = self.map(map);
        let Some(offset) = info.fields.offset_of(FieldKind::SpinLock) else {
            let text = format!("map '{}' has no valid bpf_spin_lock", info.id);
            return Err(Fail::einval(text).hint("the value's type in BTF must have one"));
        };
        if at != u64::from(offset) {
            return Err(Fail::einval(format!(
                "off {} doesn't point to 'struct bpf_spin_lock' that is at {offset}",
                at as i64
            )));
        }
        let lock = Lock {
            map,
            value: reg.owner,
        };
        let held = self.state.lock;
        let wrong = match (unlocks, held) {
            (false, None) => {
                self.state.lock = Some(lock);
                return Ok(());
            }
            (false, Some(_)) => "Locking two bpf_spin_locks are not allowed",
            (true, None) => "bpf_spin_unlock without taking a lock",
            (true, Some(held)) if held != lock => "bpf_spin_unlock of different lock",
            (true, Some(_)) => {
                self.state.lock = None;
                return Ok(());
            }
        };
        Err(Fail::einval(wrong))
    }
}
