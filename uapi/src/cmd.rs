//! The commands of bpf(2) (`enum bpf_cmd`) and the flags of their attributes.

#[expect(missing_docs, reason = "the names are the kernel's")]
mod numbers {
    pub const BPF_MAP_CREATE: u32 = 0;
    pub const BPF_MAP_LOOKUP_ELEM: u32 = 1;
    pub const BPF_MAP_UPDATE_ELEM: u32 = 2;
    pub const BPF_MAP_DELETE_ELEM: u32 = 3;
    pub const BPF_MAP_GET_NEXT_KEY: u32 = 4;
    pub const BPF_PROG_LOAD: u32 = 5;
    pub const BPF_OBJ_PIN: u32 = 6;
    pub const BPF_OBJ_GET: u32 = 7;
    pub const BPF_PROG_ATTACH: u32 = 8;
    pub const BPF_PROG_DETACH: u32 = 9;
    pub const BPF_PROG_TEST_RUN: u32 = 10;
    pub const BPF_PROG_GET_NEXT_ID: u32 = 11;
    pub const BPF_MAP_GET_NEXT_ID: u32 = 12;
    pub const BPF_PROG_GET_FD_BY_ID: u32 = 13;
    pub const BPF_MAP_GET_FD_BY_ID: u32 = 14;
    pub const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
    pub const BPF_PROG_QUERY: u32 = 16;
    pub const BPF_RAW_TRACEPOINT_OPEN: u32 = 17;
    pub const BPF_BTF_LOAD: u32 = 18;
    pub const BPF_BTF_GET_FD_BY_ID: u32 = 19;
    pub const BPF_TASK_FD_QUERY: u32 = 20;
    pub const BPF_MAP_LOOKUP_AND_DELETE_ELEM: u32 = 21;
    pub const BPF_MAP_FREEZE: u32 = 22;
    pub const BPF_BTF_GET_NEXT_ID: u32 = 23;
    pub const BPF_MAP_LOOKUP_BATCH: u32 = 24;
    pub const BPF_MAP_LOOKUP_AND_DELETE_BATCH: u32 = 25;
    pub const BPF_MAP_UPDATE_BATCH: u32 = 26;
    pub const BPF_MAP_DELETE_BATCH: u32 = 27;
    pub const BPF_LINK_CREATE: u32 = 28;
    pub const BPF_LINK_UPDATE: u32 = 29;
    pub const BPF_LINK_GET_FD_BY_ID: u32 = 30;
    pub const BPF_LINK_GET_NEXT_ID: u32 = 31;
    pub const BPF_ENABLE_STATS: u32 = 32;
    pub const BPF_ITER_CREATE: u32 = 33;
    pub const BPF_LINK_DETACH: u32 = 34;
    pub const BPF_PROG_BIND_MAP: u32 = 35;
    pub const BPF_TOKEN_CREATE: u32 = 36;
    pub const BPF_PROG_STREAM_READ_BY_FD: u32 = 37;

    /// `log_level` bits of program and BTF loading
    /// (kernel/bpf/log.c, `BPF_LOG_MASK`).
    pub const BPF_LOG_LEVEL1: u32 = 1;
    pub const BPF_LOG_LEVEL2: u32 = 2;
    pub const BPF_LOG_STATS: u32 = 4;
    pub const BPF_LOG_FIXED: u32 = 8;
    pub const BPF_LOG_MASK: u32 = 15;

    pub const BPF_F_UPROBE_MULTI_RETURN: u32 = 1;
    /// `BPF_LINK_UPDATE`: `old_prog_fd` must be the current program.
    pub const BPF_F_REPLACE: u32 = 4;

    pub const BPF_LINK_TYPE_RAW_TRACEPOINT: u32 = 1;
    pub const BPF_LINK_TYPE_PERF_EVENT: u32 = 7;
    pub const BPF_LINK_TYPE_UPROBE_MULTI: u32 = 12;
    pub const BPF_PERF_EVENT_UPROBE: u32 = 1;
    pub const BPF_PERF_EVENT_URETPROBE: u32 = 2;
    pub const BPF_PERF_EVENT_KPROBE: u32 = 3;
    pub const BPF_PERF_EVENT_KRETPROBE: u32 = 4;
    pub const BPF_PERF_EVENT_TRACEPOINT: u32 = 5;
    pub const BPF_PERF_EVENT_EVENT: u32 = 6;

    /// `fd_type` of `BPF_TASK_FD_QUERY`.
    pub const BPF_FD_TYPE_TRACEPOINT: u32 = 1;
    pub const BPF_FD_TYPE_KPROBE: u32 = 2;
    pub const BPF_FD_TYPE_KRETPROBE: u32 = 3;
    pub const BPF_FD_TYPE_UPROBE: u32 = 4;
    pub const BPF_FD_TYPE_URETPROBE: u32 = 5;
}
pub use numbers::*;
