//! Helpers on maps. The maps' own files say what each type does.

use super::row::{Any, Ctx, Key, Lock, Value, ValueOrNull, ValueRoom, helper};
use crate::maps::{Map, parts};

helper! {
    /// bpf_map_lookup_elem: the value of `key`, or NULL.
    fn map_lookup_elem(run, map: &'static Map, key: Key) -> ValueOrNull = BPF_FUNC_MAP_LOOKUP_ELEM {
        // SAFETY: the verifier proved that `key` has the map's key size.
        ValueOrNull(unsafe { map.lookup_ptr(key.0, run.vcpu) })
    }
}

helper! {
    /// bpf_map_update_elem: stores `value` under `key`.
    /// Errors: E2BIG full, EEXIST/ENOENT by flags, EINVAL unknown flags.
    fn map_update_elem(run, map: &'static Map, key: Key, value: Value, flags: Any) -> i64 = BPF_FUNC_MAP_UPDATE_ELEM {
        // SAFETY: the verifier proved that key and value have the map's sizes.
        unsafe { map.update_prog(key.0, value.0, flags.0, run.vcpu) }
    }
}

helper! {
    /// bpf_map_delete_elem: removes `key`. Errors: ENOENT, EINVAL for arrays.
    fn map_delete_elem(run, map: &'static Map, key: Key) -> i64 = BPF_FUNC_MAP_DELETE_ELEM {
        // SAFETY: the verifier proved that `key` has the map's key size.
        unsafe { map.delete_prog(key.0) }
    }
}

helper! {
    /// bpf_map_lookup_percpu_elem: the value of `key` on CPU `cpu`, or NULL.
    fn map_lookup_percpu_elem(run, map: &'static Map, key: Key, cpu: Any) -> ValueOrNull = BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM {
        // SAFETY: the verifier proved that `key` has the map's key size.
        ValueOrNull(unsafe { map.lookup_percpu_ptr(key.0, cpu.0 as u32) })
    }
}

helper! {
    /// bpf_map_push_elem: adds `value`; with BPF_EXIST, in place of the oldest
    /// when full. Errors: E2BIG full, EINVAL other flags.
    fn map_push_elem(run, map: &'static Map, value: Value, flags: Any) -> i64 = BPF_FUNC_MAP_PUSH_ELEM {
        // SAFETY: the verifier proved that `value` has the map's value size.
        unsafe { map.push(value.0, flags.0) }
    }
}

helper! {
    /// bpf_map_pop_elem: takes an element out. Errors: ENOENT empty.
    fn map_pop_elem(run, map: &'static Map, value: ValueRoom) -> i64 = BPF_FUNC_MAP_POP_ELEM {
        // SAFETY: the verifier proved that `value` has the map's value size.
        unsafe { map.pop(value.0) }
    }
}

helper! {
    /// bpf_map_peek_elem: the element that a pop would take; whether a bloom
    /// filter has `value`. Errors: ENOENT empty or not there.
    fn map_peek_elem(run, map: &'static Map, value: ValueRoom) -> i64 = BPF_FUNC_MAP_PEEK_ELEM {
        // SAFETY: the verifier proved that `value` has the map's value size.
        unsafe { map.peek(value.0) }
    }
}

helper! {
    /// bpf_spin_lock: takes the lock of a value.
    fn spin_lock(run, lock: Lock) -> () = BPF_FUNC_SPIN_LOCK {
        // SAFETY: the verifier proved that this is the lock of a value, which
        // is at a multiple of 4.
        unsafe { parts::lock(lock.0) }
    }
}

helper! {
    /// bpf_spin_unlock: gives it back.
    fn spin_unlock(run, lock: Lock) -> () = BPF_FUNC_SPIN_UNLOCK {
        // SAFETY: as in `spin_lock`.
        unsafe { parts::unlock(lock.0) }
    }
}

helper! {
    /// bpf_tail_call: engines do not call this row, they jump (`Linker::tail_call`);
    /// it is here for its prototype.
    fn tail_call(run, _ctx: Ctx, _map: &'static Map, _index: Any) -> () = BPF_FUNC_TAIL_CALL {}
}

/// Finds what a tail call jumps to, for engines; null to fall through.
///
/// # Safety
/// `map` is a register that the verifier accepted as a program array, `run` a
/// run that goes on.
pub unsafe extern "C" fn tail_call_target(map: u64, index: u64, run: *mut vm::Run) -> *const u8 {
    // SAFETY: the caller's contract; maps outlive their programs.
    let (map, run) = unsafe { (&*(map as *const Map), crate::run::RunState::of(run)) };
    // The kernel takes the low 32 bits (kernel/bpf/core.c, JMP_TAIL_CALL).
    match map.slot(index as u32) {
        Some(id) => run.env().program(id),
        None => core::ptr::null(),
    }
}
