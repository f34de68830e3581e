//! Which helper takes which map type (kernel: `check_map_func_compatibility`)
//! and how an unknown helper is refused. It knows no registers.

use uapi::Errno;
use uapi::helper::*;
use uapi::map::*;

use super::{Fail, MapInfo};
use crate::helper::Proto;
use crate::helper::kernel::KernelHelper;

/// Whether `proto` may be called with this map.
pub(super) fn check(proto: &Proto, map: Option<&MapInfo>) -> Result<(), Fail> {
    let Some(map) = map else {
        return Ok(());
    };
    if !takes(proto.id, map.map_type) {
        let text = format!(
            "cannot pass map_type {} into func bpf_{}#{}",
            map.map_type, proto.name, proto.id
        );
        return Err(Fail::einval(text));
    }
    let changes = matches!(
        proto.id,
        BPF_FUNC_MAP_UPDATE_ELEM
            | BPF_FUNC_MAP_DELETE_ELEM
            | BPF_FUNC_MAP_PUSH_ELEM
            | BPF_FUNC_MAP_POP_ELEM
    );
    if changes && map.map_flags & BPF_F_RDONLY_PROG != 0 {
        return Err(Fail::eacces("write into map forbidden"));
    }
    Ok(())
}

/// Whether a helper may call back for the elements of this map.
pub(super) fn check_callback(map: Option<&MapInfo>) -> Result<(), Fail> {
    if map.is_none_or(|map| takes(BPF_FUNC_FOR_EACH_MAP_ELEM, map.map_type)) {
        return Ok(());
    }
    let text = "callback function not allowed for map";
    Err(Fail::new(Errno::ENOTSUPP, text))
}

/// What each map type is for. A type that is not listed can be passed to no
/// helper, so adding one to the map store does not open it to programs.
fn takes(helper: u32, map_type: u32) -> bool {
    let keyed = matches!(
        helper,
        BPF_FUNC_MAP_LOOKUP_ELEM | BPF_FUNC_MAP_UPDATE_ELEM | BPF_FUNC_MAP_DELETE_ELEM
    );
    match map_type {
        BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_LRU_HASH => {
            keyed || helper == BPF_FUNC_FOR_EACH_MAP_ELEM
        }
        BPF_MAP_TYPE_PERCPU_HASH | BPF_MAP_TYPE_PERCPU_ARRAY | BPF_MAP_TYPE_LRU_PERCPU_HASH => {
            keyed
                || matches!(
                    helper,
                    BPF_FUNC_FOR_EACH_MAP_ELEM | BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM
                )
        }
        BPF_MAP_TYPE_LPM_TRIE => keyed,
        BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS => {
            helper == BPF_FUNC_MAP_LOOKUP_ELEM
        }
        BPF_MAP_TYPE_PROG_ARRAY => helper == BPF_FUNC_TAIL_CALL,
        BPF_MAP_TYPE_PERF_EVENT_ARRAY => helper == BPF_FUNC_PERF_EVENT_OUTPUT,
        BPF_MAP_TYPE_STACK_TRACE => helper == BPF_FUNC_GET_STACKID,
        BPF_MAP_TYPE_CGROUP_ARRAY => helper == BPF_FUNC_CURRENT_TASK_UNDER_CGROUP,
        BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK => matches!(
            helper,
            BPF_FUNC_MAP_PUSH_ELEM | BPF_FUNC_MAP_POP_ELEM | BPF_FUNC_MAP_PEEK_ELEM
        ),
        BPF_MAP_TYPE_RINGBUF => matches!(
            helper,
            BPF_FUNC_RINGBUF_OUTPUT
                | BPF_FUNC_RINGBUF_RESERVE
                | BPF_FUNC_RINGBUF_RESERVE_DYNPTR
                | BPF_FUNC_RINGBUF_QUERY
        ),
        _ => false,
    }
}

/// The refusal of a helper that this program cannot call.
pub(super) fn unknown_helper(id: u32, known: Option<&KernelHelper>) -> Fail {
    let Some(row) = known else {
        // The kernel has a name for number 0 too.
        let fail = if id == 0 {
            "program of this type cannot use helper bpf_unspec#0".to_owned()
        } else {
            format!("invalid func unknown#{}", id as i32)
        };
        return Fail::einval(fail);
    };
    let name = row.proto.name;
    let fail = Fail::einval(format!(
        "program of this type cannot use helper bpf_{name}#{id}"
    ));
    fail.hint(if row.types.is_empty() {
        "only other types of programs, which run in the kernel alone, have this helper"
    } else {
        "the kernel has this helper for some programs, but it cannot be called here"
    })
}
