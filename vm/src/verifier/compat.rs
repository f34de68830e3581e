//! Which helper takes which map type (kernel: `check_map_func_compatibility`)
//! and how an unknown helper is refused. It knows no registers.

use uapi::Errno;
use uapi::helper::*;
use uapi::map::*;
use uapi::prog::*;

use super::state::Sock;
use super::{Fail, MapInfo};
use crate::helper::Proto;
use crate::helper::kernel::KernelHelper;

/// Whether a program of this type may call `proto` with this map.
pub(super) fn check(proto: &Proto, map: Option<&MapInfo>, prog_type: u32) -> Result<(), Fail> {
    let Some(map) = map else {
        return Ok(());
    };
    let changes = matches!(
        proto.id,
        BPF_FUNC_MAP_UPDATE_ELEM
            | BPF_FUNC_MAP_DELETE_ELEM
            | BPF_FUNC_MAP_PUSH_ELEM
            | BPF_FUNC_MAP_POP_ELEM
    );
    if changes && is_read_only(map) {
        return Err(Fail::eacces("write into map forbidden"));
    }
    // What a lookup gives is known by the template only.
    let of_maps = matches!(
        map.map_type,
        BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS
    );
    let lacks_template = of_maps && map.inner.is_none();
    if lacks_template || !takes(proto.id, map.map_type, prog_type) {
        let text = format!(
            "cannot pass map_type {} into func bpf_{}#{}",
            map.map_type, proto.name, proto.id
        );
        return Err(Fail::einval(text));
    }
    Ok(())
}

/// Whether a program that may sleep may name these maps: elements of the
/// others can go while it sleeps (`check_map_prog_compatibility`).
pub(super) fn check_sleepable(prog_flags: u32, maps: &[MapInfo]) -> Result<(), Fail> {
    const STAY: [u32; 17] = [
        BPF_MAP_TYPE_HASH,
        BPF_MAP_TYPE_LRU_HASH,
        BPF_MAP_TYPE_ARRAY,
        BPF_MAP_TYPE_PERCPU_HASH,
        BPF_MAP_TYPE_PERCPU_ARRAY,
        BPF_MAP_TYPE_LRU_PERCPU_HASH,
        BPF_MAP_TYPE_ARRAY_OF_MAPS,
        BPF_MAP_TYPE_HASH_OF_MAPS,
        BPF_MAP_TYPE_RINGBUF,
        BPF_MAP_TYPE_USER_RINGBUF,
        BPF_MAP_TYPE_INODE_STORAGE,
        BPF_MAP_TYPE_SK_STORAGE,
        BPF_MAP_TYPE_TASK_STORAGE,
        BPF_MAP_TYPE_CGRP_STORAGE,
        BPF_MAP_TYPE_QUEUE,
        BPF_MAP_TYPE_STACK,
        BPF_MAP_TYPE_ARENA,
    ];
    let stay = maps.iter().all(|map| STAY.contains(&map.map_type));
    if prog_flags & BPF_F_SLEEPABLE == 0 || stay {
        return Ok(());
    }
    let text = "Sleepable programs can only use array, hash, ringbuf and local storage maps";
    Err(Fail::einval(text))
}

/// Whether programs may not write into the map's values. Those of a device map
/// are the devices' own.
pub(super) fn is_read_only(map: &MapInfo) -> bool {
    map.map_flags & BPF_F_RDONLY_PROG != 0
        || matches!(map.map_type, BPF_MAP_TYPE_DEVMAP | BPF_MAP_TYPE_DEVMAP_HASH)
}

/// Whether a helper may call back for the elements of this map.
pub(super) fn check_callback(map: Option<&MapInfo>) -> Result<(), Fail> {
    let calls = [BPF_FUNC_FOR_EACH_MAP_ELEM, BPF_FUNC_USER_RINGBUF_DRAIN];
    let fits = |map: &MapInfo| calls.iter().any(|&call| takes(call, map.map_type, 0));
    if map.is_none_or(fits) {
        return Ok(());
    }
    let text = "callback function not allowed for map";
    Err(Fail::new(Errno::ENOTSUPP, text))
}

/// What each map type is for. A type that is not listed can be passed to no
/// helper, so adding one to the map store does not open it to programs.
fn takes(helper: u32, map_type: u32, prog_type: u32) -> bool {
    let keyed = matches!(
        helper,
        BPF_FUNC_MAP_LOOKUP_ELEM | BPF_FUNC_MAP_UPDATE_ELEM | BPF_FUNC_MAP_DELETE_ELEM
    );
    let changes = matches!(helper, BPF_FUNC_MAP_UPDATE_ELEM | BPF_FUNC_MAP_DELETE_ELEM);
    let each = helper == BPF_FUNC_FOR_EACH_MAP_ELEM;
    match map_type {
        BPF_MAP_TYPE_HASH | BPF_MAP_TYPE_ARRAY | BPF_MAP_TYPE_LRU_HASH => keyed || each,
        BPF_MAP_TYPE_PERCPU_HASH | BPF_MAP_TYPE_PERCPU_ARRAY | BPF_MAP_TYPE_LRU_PERCPU_HASH => {
            keyed || each || helper == BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM
        }
        BPF_MAP_TYPE_LPM_TRIE => keyed,
        BPF_MAP_TYPE_SOCKMAP | BPF_MAP_TYPE_SOCKHASH if changes => may_update_sockets(prog_type),
        _ => specific(map_type).contains(&helper),
    }
}

/// Helpers of map types that have few.
fn specific(map_type: u32) -> &'static [u32] {
    match map_type {
        BPF_MAP_TYPE_PROG_ARRAY => &[BPF_FUNC_TAIL_CALL],
        BPF_MAP_TYPE_PERF_EVENT_ARRAY => &[
            BPF_FUNC_PERF_EVENT_READ,
            BPF_FUNC_PERF_EVENT_OUTPUT,
            BPF_FUNC_SKB_OUTPUT,
            BPF_FUNC_PERF_EVENT_READ_VALUE,
            BPF_FUNC_XDP_OUTPUT,
        ],
        BPF_MAP_TYPE_RINGBUF => &[
            BPF_FUNC_RINGBUF_OUTPUT,
            BPF_FUNC_RINGBUF_RESERVE,
            BPF_FUNC_RINGBUF_RESERVE_DYNPTR,
            BPF_FUNC_RINGBUF_QUERY,
        ],
        BPF_MAP_TYPE_USER_RINGBUF => &[BPF_FUNC_USER_RINGBUF_DRAIN],
        BPF_MAP_TYPE_STACK_TRACE => &[BPF_FUNC_GET_STACKID],
        BPF_MAP_TYPE_CGROUP_ARRAY => &[
            BPF_FUNC_SKB_UNDER_CGROUP,
            BPF_FUNC_CURRENT_TASK_UNDER_CGROUP,
        ],
        BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED | BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE_DEPRECATED => {
            &[BPF_FUNC_GET_LOCAL_STORAGE]
        }
        BPF_MAP_TYPE_DEVMAP | BPF_MAP_TYPE_DEVMAP_HASH | BPF_MAP_TYPE_XSKMAP => {
            &[BPF_FUNC_REDIRECT_MAP, BPF_FUNC_MAP_LOOKUP_ELEM]
        }
        BPF_MAP_TYPE_CPUMAP => &[BPF_FUNC_REDIRECT_MAP],
        BPF_MAP_TYPE_ARRAY_OF_MAPS | BPF_MAP_TYPE_HASH_OF_MAPS => &[BPF_FUNC_MAP_LOOKUP_ELEM],
        BPF_MAP_TYPE_SOCKMAP => &[
            BPF_FUNC_SK_REDIRECT_MAP,
            BPF_FUNC_SOCK_MAP_UPDATE,
            BPF_FUNC_MSG_REDIRECT_MAP,
            BPF_FUNC_SK_SELECT_REUSEPORT,
            BPF_FUNC_MAP_LOOKUP_ELEM,
        ],
        BPF_MAP_TYPE_SOCKHASH => &[
            BPF_FUNC_SK_REDIRECT_HASH,
            BPF_FUNC_SOCK_HASH_UPDATE,
            BPF_FUNC_MSG_REDIRECT_HASH,
            BPF_FUNC_SK_SELECT_REUSEPORT,
            BPF_FUNC_MAP_LOOKUP_ELEM,
        ],
        BPF_MAP_TYPE_REUSEPORT_SOCKARRAY => &[BPF_FUNC_SK_SELECT_REUSEPORT],
        BPF_MAP_TYPE_QUEUE | BPF_MAP_TYPE_STACK => &[
            BPF_FUNC_MAP_PUSH_ELEM,
            BPF_FUNC_MAP_POP_ELEM,
            BPF_FUNC_MAP_PEEK_ELEM,
        ],
        BPF_MAP_TYPE_BLOOM_FILTER => &[BPF_FUNC_MAP_PEEK_ELEM, BPF_FUNC_MAP_PUSH_ELEM],
        BPF_MAP_TYPE_SK_STORAGE => &[BPF_FUNC_SK_STORAGE_GET, BPF_FUNC_SK_STORAGE_DELETE],
        BPF_MAP_TYPE_INODE_STORAGE => &[BPF_FUNC_INODE_STORAGE_GET, BPF_FUNC_INODE_STORAGE_DELETE],
        BPF_MAP_TYPE_TASK_STORAGE => &[BPF_FUNC_TASK_STORAGE_GET, BPF_FUNC_TASK_STORAGE_DELETE],
        BPF_MAP_TYPE_CGRP_STORAGE => &[BPF_FUNC_CGRP_STORAGE_GET, BPF_FUNC_CGRP_STORAGE_DELETE],
        _ => &[],
    }
}

/// Where no lock of a socket can be held (kernel: `may_update_sockmap`).
fn may_update_sockets(prog_type: u32) -> bool {
    matches!(
        prog_type,
        BPF_PROG_TYPE_SOCKET_FILTER
            | BPF_PROG_TYPE_SCHED_CLS
            | BPF_PROG_TYPE_SCHED_ACT
            | BPF_PROG_TYPE_XDP
    )
}

/// The sockets that are the values of a map type.
pub(super) fn socket_in(map_type: u32) -> Option<Sock> {
    match map_type {
        BPF_MAP_TYPE_SOCKMAP | BPF_MAP_TYPE_SOCKHASH => Some(Sock::Full),
        BPF_MAP_TYPE_XSKMAP => Some(Sock::Xdp),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_go_with_maps_that_call_back() {
        let errno = |map_type| {
            let map = MapInfo {
                map_type,
                ..MapInfo::default()
            };
            check_callback(Some(&map)).err().map(|fail| fail.errno)
        };
        assert_eq!(errno(BPF_MAP_TYPE_HASH), None);
        assert_eq!(errno(BPF_MAP_TYPE_USER_RINGBUF), None);
        assert_eq!(errno(BPF_MAP_TYPE_RINGBUF), Some(Errno::ENOTSUPP));
        assert!(check_callback(None).is_ok());
    }
}
