//! Types of maps that only kernels have, and why.

use uapi::map::*;

/// Why maps of a type are in no session; `None` for those that are, and for
/// types that nobody has.
#[must_use]
pub fn kernels_only(map_type: u32) -> Option<&'static str> {
    Some(match map_type {
        BPF_MAP_TYPE_DEVMAP
        | BPF_MAP_TYPE_DEVMAP_HASH
        | BPF_MAP_TYPE_CPUMAP
        | BPF_MAP_TYPE_XSKMAP => "packets that it would redirect are the kernel's",
        BPF_MAP_TYPE_SOCKMAP | BPF_MAP_TYPE_SOCKHASH | BPF_MAP_TYPE_REUSEPORT_SOCKARRAY => {
            "sockets in maps are the kernel's"
        }
        BPF_MAP_TYPE_SK_STORAGE => "storage of sockets is the kernel's",
        BPF_MAP_TYPE_INODE_STORAGE => "storage of inodes is the kernel's",
        BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED
        | BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE_DEPRECATED
        | BPF_MAP_TYPE_CGRP_STORAGE => "storage of control groups is the kernel's",
        BPF_MAP_TYPE_STRUCT_OPS => "operations of the kernel cannot be replaced from user space",
        BPF_MAP_TYPE_ARENA => "arenas are not in user space yet",
        _ => return None,
    })
}
