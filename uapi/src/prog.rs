//! Program types, attach types, program flags.

/// `enum bpf_prog_type`, `enum bpf_attach_type`, `BPF_F_*` of `BPF_PROG_LOAD`.
#[expect(missing_docs, reason = "the names are the kernel's")]
mod numbers {
    pub const BPF_PROG_TYPE_UNSPEC: u32 = 0;
    pub const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
    pub const BPF_PROG_TYPE_KPROBE: u32 = 2;
    pub const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
    pub const BPF_PROG_TYPE_SCHED_ACT: u32 = 4;
    pub const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;
    pub const BPF_PROG_TYPE_XDP: u32 = 6;
    pub const BPF_PROG_TYPE_PERF_EVENT: u32 = 7;
    pub const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
    pub const BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE: u32 = 24;
    pub const BPF_PROG_TYPE_TRACING: u32 = 26;
    pub const BPF_PROG_TYPE_SYSCALL: u32 = 31;
    pub const BPF_TRACE_FENTRY: u32 = 24;
    pub const BPF_TRACE_FEXIT: u32 = 25;
    pub const BPF_MODIFY_RETURN: u32 = 26;
    pub const BPF_PERF_EVENT: u32 = 41;
    pub const BPF_TRACE_KPROBE_MULTI: u32 = 42;
    pub const BPF_TRACE_UPROBE_MULTI: u32 = 48;
    pub const BPF_TRACE_KPROBE_SESSION: u32 = 56;
    pub const BPF_TRACE_UPROBE_SESSION: u32 = 57;
    pub const BPF_F_STRICT_ALIGNMENT: u32 = 1 << 0;
    pub const BPF_F_ANY_ALIGNMENT: u32 = 1 << 1;
    pub const BPF_F_TEST_STATE_FREQ: u32 = 1 << 3;
    pub const BPF_F_SLEEPABLE: u32 = 1 << 4;
    pub const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
}
pub use numbers::*;

/// Names of the program types, in the order of `enum bpf_prog_type`.
pub const TYPE_NAMES: [&str; 33] = [
    "unspec",
    "socket_filter",
    "kprobe",
    "sched_cls",
    "sched_act",
    "tracepoint",
    "xdp",
    "perf_event",
    "cgroup_skb",
    "cgroup_sock",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "sock_ops",
    "sk_skb",
    "cgroup_device",
    "sk_msg",
    "raw_tracepoint",
    "cgroup_sock_addr",
    "lwt_seg6local",
    "lirc_mode2",
    "sk_reuseport",
    "flow_dissector",
    "cgroup_sysctl",
    "raw_tracepoint_writable",
    "cgroup_sockopt",
    "tracing",
    "struct_ops",
    "ext",
    "lsm",
    "sk_lookup",
    "syscall",
    "netfilter",
];

/// Name of a program type.
pub fn type_name(number: u32) -> &'static str {
    let known = TYPE_NAMES.get(number as usize);
    known.copied().unwrap_or("unknown")
}
