//! Map types and flags.

macro_rules! numbers {
    ($(#[$doc:meta])* $t:ty: $($name:ident = $v:expr;)*) => {
        $(#[$doc])*
        #[expect(missing_docs, reason = "the names are the kernel's")]
        mod inner { $(pub const $name: $t = $v;)* }
        pub use inner::*;
    };
}

numbers! {
    /// `enum bpf_map_type`, map flags, update and lookup flags.
    u32:
    BPF_MAP_TYPE_HASH = 1;
    BPF_MAP_TYPE_ARRAY = 2;
    BPF_MAP_TYPE_PROG_ARRAY = 3;
    BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4;
    BPF_MAP_TYPE_PERCPU_HASH = 5;
    BPF_MAP_TYPE_PERCPU_ARRAY = 6;
    BPF_MAP_TYPE_STACK_TRACE = 7;
    BPF_MAP_TYPE_CGROUP_ARRAY = 8;
    BPF_MAP_TYPE_LRU_HASH = 9;
    BPF_MAP_TYPE_LRU_PERCPU_HASH = 10;
    BPF_MAP_TYPE_LPM_TRIE = 11;
    BPF_MAP_TYPE_ARRAY_OF_MAPS = 12;
    BPF_MAP_TYPE_HASH_OF_MAPS = 13;
    BPF_MAP_TYPE_DEVMAP = 14;
    BPF_MAP_TYPE_SOCKMAP = 15;
    BPF_MAP_TYPE_CPUMAP = 16;
    BPF_MAP_TYPE_XSKMAP = 17;
    BPF_MAP_TYPE_SOCKHASH = 18;
    BPF_MAP_TYPE_CGROUP_STORAGE_DEPRECATED = 19;
    BPF_MAP_TYPE_REUSEPORT_SOCKARRAY = 20;
    BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE_DEPRECATED = 21;
    BPF_MAP_TYPE_QUEUE = 22;
    BPF_MAP_TYPE_STACK = 23;
    BPF_MAP_TYPE_SK_STORAGE = 24;
    BPF_MAP_TYPE_DEVMAP_HASH = 25;
    BPF_MAP_TYPE_STRUCT_OPS = 26;
    BPF_MAP_TYPE_RINGBUF = 27;
    BPF_MAP_TYPE_INODE_STORAGE = 28;
    BPF_MAP_TYPE_TASK_STORAGE = 29;
    BPF_MAP_TYPE_BLOOM_FILTER = 30;
    BPF_MAP_TYPE_USER_RINGBUF = 31;
    BPF_MAP_TYPE_CGRP_STORAGE = 32;
    BPF_MAP_TYPE_ARENA = 33;

    BPF_F_NO_PREALLOC = 1 << 0;
    BPF_F_NO_COMMON_LRU = 1 << 1;
    BPF_F_NUMA_NODE = 1 << 2;
    BPF_F_RDONLY = 1 << 3;
    BPF_F_WRONLY = 1 << 4;
    BPF_F_STACK_BUILD_ID = 1 << 5;
    BPF_F_ZERO_SEED = 1 << 6;
    BPF_F_RDONLY_PROG = 1 << 7;
    BPF_F_WRONLY_PROG = 1 << 8;
    BPF_F_CLONE = 1 << 9;
    BPF_F_MMAPABLE = 1 << 10;
    BPF_F_PRESERVE_ELEMS = 1 << 11;
    BPF_F_INNER_MAP = 1 << 12;
    BPF_F_TOKEN_FD = 1 << 16;
}

/// Update and lookup flags.
#[expect(missing_docs, reason = "the names are the kernel's")]
mod op_flags {
    pub const BPF_ANY: u64 = 0;
    pub const BPF_NOEXIST: u64 = 1;
    pub const BPF_EXIST: u64 = 2;
    pub const BPF_F_LOCK: u64 = 4;
    /// Ring buffer flags of output, submit and discard.
    pub const BPF_RB_NO_WAKEUP: u64 = 1;
    pub const BPF_RB_FORCE_WAKEUP: u64 = 2;
    pub const BPF_RINGBUF_BUSY_BIT: u32 = 1 << 31;
    pub const BPF_RINGBUF_DISCARD_BIT: u32 = 1 << 30;
    pub const BPF_RINGBUF_HDR_SZ: u32 = 8;
    /// `bpf_perf_event_output` and `bpf_get_stackid` flags.
    pub const BPF_F_INDEX_MASK: u64 = 0xffff_ffff;
    pub const BPF_F_CURRENT_CPU: u64 = 0xffff_ffff;
    pub const BPF_F_SKIP_FIELD_MASK: u64 = 0xff;
    pub const BPF_F_USER_STACK: u64 = 1 << 8;
    pub const BPF_F_FAST_STACK_CMP: u64 = 1 << 9;
    pub const BPF_F_REUSE_STACKID: u64 = 1 << 10;
    pub const BPF_F_USER_BUILD_ID: u64 = 1 << 11;
    /// `bpf_*_storage_get` flags.
    pub const BPF_LOCAL_STORAGE_GET_F_CREATE: u64 = 1;
}
pub use op_flags::*;

/// Bytes of an object name, with its terminating zero.
pub const BPF_OBJ_NAME_LEN: usize = 16;
