//! The kernel's words for map and program types, as bpftool prints them.

use runtime::session::LinkKind;
use uapi::prog::TYPE_NAMES;

/// `enum bpf_map_type`, in its order.
const MAP_TYPES: [&str; 34] = [
    "unspec",
    "hash",
    "array",
    "prog_array",
    "perf_event_array",
    "percpu_hash",
    "percpu_array",
    "stack_trace",
    "cgroup_array",
    "lru_hash",
    "lru_percpu_hash",
    "lpm_trie",
    "array_of_maps",
    "hash_of_maps",
    "devmap",
    "sockmap",
    "cpumap",
    "xskmap",
    "sockhash",
    "cgroup_storage",
    "reuseport_sockarray",
    "percpu_cgroup_storage",
    "queue",
    "stack",
    "sk_storage",
    "devmap_hash",
    "struct_ops",
    "ringbuf",
    "inode_storage",
    "task_storage",
    "bloom_filter",
    "user_ringbuf",
    "cgrp_storage",
    "arena",
];

/// Name of a map type.
pub fn map_type(number: u32) -> String {
    name(&MAP_TYPES, number)
}

/// Name of a program type.
pub fn program_type(number: u32) -> String {
    name(&TYPE_NAMES, number)
}

fn name(names: &[&str], number: u32) -> String {
    let known = usize::try_from(number)
        .ok()
        .and_then(|index| names.get(index));
    known.map_or_else(|| format!("type {number}"), |name| (*name).to_owned())
}

/// What a link does, in one or two words.
pub fn link_kind(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Uprobe => "uprobe",
        LinkKind::Uretprobe => "uretprobe",
        LinkKind::Session => "session",
        LinkKind::Replace => "replace",
        LinkKind::SyscallKprobe => "kprobe",
        LinkKind::SyscallKretprobe => "kretprobe",
        LinkKind::RawSyscallEnter | LinkKind::RawSyscallExit => "raw tracepoint",
        LinkKind::SyscallEnter
        | LinkKind::SyscallExit
        | LinkKind::AnySyscallEnter
        | LinkKind::AnySyscallExit
        | LinkKind::TaskExec
        | LinkKind::TaskFork
        | LinkKind::TaskExit => "tracepoint",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        assert_eq!(map_type(uapi::map::BPF_MAP_TYPE_RINGBUF), "ringbuf");
        assert_eq!(map_type(uapi::map::BPF_MAP_TYPE_ARENA), "arena");
        assert_eq!(map_type(99), "type 99");
        assert_eq!(program_type(uapi::prog::BPF_PROG_TYPE_KPROBE), "kprobe");
        assert_eq!(program_type(uapi::prog::BPF_PROG_TYPE_SYSCALL), "syscall");
    }
}
