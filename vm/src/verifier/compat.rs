//! Which helper takes which map type (kernel: `check_map_func_compatibility`)
//! and how an unknown helper is refused. It knows no registers.

use uapi::helper::*;
use uapi::map::*;

use super::{Fail, MapInfo};
use crate::helper::Proto;

const BPF_FUNC_MAP_PUSH_ELEM: u32 = 87;
const BPF_FUNC_MAP_POP_ELEM: u32 = 88;
const BPF_FUNC_MAP_PEEK_ELEM: u32 = 89;

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
            BPF_FUNC_RINGBUF_OUTPUT | BPF_FUNC_RINGBUF_RESERVE | BPF_FUNC_RINGBUF_QUERY
        ),
        _ => false,
    }
}

/// Helpers of Linux 6.18, by number (`__BPF_FUNC_MAX_ID`).
const HELPERS: u32 = 212;

/// The refusal of a helper that programs here cannot call.
pub(super) fn unknown_helper(id: u32) -> Fail {
    if id == 0 || id >= HELPERS {
        return Fail::einval(format!("invalid func unknown#{id}"));
    }
    Fail::einval(format!("unknown func bpf_helper#{id}"))
        .hint("this helper does not exist in user space")
}
