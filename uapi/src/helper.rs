//! Helper function numbers (`enum bpf_func_id`).

#[expect(missing_docs, reason = "the names are the kernel's")]
mod numbers {
    pub const BPF_FUNC_MAP_LOOKUP_ELEM: u32 = 1;
    pub const BPF_FUNC_MAP_UPDATE_ELEM: u32 = 2;
    pub const BPF_FUNC_MAP_DELETE_ELEM: u32 = 3;
    pub const BPF_FUNC_PROBE_READ: u32 = 4;
    pub const BPF_FUNC_KTIME_GET_NS: u32 = 5;
    pub const BPF_FUNC_TRACE_PRINTK: u32 = 6;
    pub const BPF_FUNC_GET_PRANDOM_U32: u32 = 7;
    pub const BPF_FUNC_GET_SMP_PROCESSOR_ID: u32 = 8;
    pub const BPF_FUNC_TAIL_CALL: u32 = 12;
    pub const BPF_FUNC_GET_CURRENT_PID_TGID: u32 = 14;
    pub const BPF_FUNC_GET_CURRENT_UID_GID: u32 = 15;
    pub const BPF_FUNC_GET_CURRENT_COMM: u32 = 16;
    pub const BPF_FUNC_PERF_EVENT_OUTPUT: u32 = 25;
    pub const BPF_FUNC_GET_STACKID: u32 = 27;
    pub const BPF_FUNC_GET_CURRENT_TASK: u32 = 35;
    pub const BPF_FUNC_CURRENT_TASK_UNDER_CGROUP: u32 = 37;
    pub const BPF_FUNC_GET_NUMA_NODE_ID: u32 = 42;
    pub const BPF_FUNC_PROBE_READ_STR: u32 = 45;
    pub const BPF_FUNC_GET_STACK: u32 = 67;
    pub const BPF_FUNC_GET_CURRENT_CGROUP_ID: u32 = 80;
    pub const BPF_FUNC_PROBE_READ_USER: u32 = 112;
    pub const BPF_FUNC_PROBE_READ_KERNEL: u32 = 113;
    pub const BPF_FUNC_PROBE_READ_USER_STR: u32 = 114;
    pub const BPF_FUNC_PROBE_READ_KERNEL_STR: u32 = 115;
    pub const BPF_FUNC_GET_NS_CURRENT_PID_TGID: u32 = 120;
    pub const BPF_FUNC_KTIME_GET_BOOT_NS: u32 = 125;
    pub const BPF_FUNC_RINGBUF_OUTPUT: u32 = 130;
    pub const BPF_FUNC_RINGBUF_RESERVE: u32 = 131;
    pub const BPF_FUNC_RINGBUF_SUBMIT: u32 = 132;
    pub const BPF_FUNC_RINGBUF_DISCARD: u32 = 133;
    pub const BPF_FUNC_RINGBUF_QUERY: u32 = 134;
    pub const BPF_FUNC_GET_TASK_STACK: u32 = 141;
    pub const BPF_FUNC_COPY_FROM_USER: u32 = 148;
    pub const BPF_FUNC_GET_CURRENT_TASK_BTF: u32 = 158;
    pub const BPF_FUNC_KTIME_GET_COARSE_NS: u32 = 160;
    pub const BPF_FUNC_FOR_EACH_MAP_ELEM: u32 = 164;
    pub const BPF_FUNC_SNPRINTF: u32 = 165;
    pub const BPF_FUNC_GET_FUNC_IP: u32 = 173;
    pub const BPF_FUNC_GET_ATTACH_COOKIE: u32 = 174;
    pub const BPF_FUNC_TRACE_VPRINTK: u32 = 177;
    pub const BPF_FUNC_LOOP: u32 = 181;
    pub const BPF_FUNC_STRNCMP: u32 = 182;
    pub const BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM: u32 = 195;
    pub const BPF_FUNC_KTIME_GET_TAI_NS: u32 = 208;
}
pub use numbers::*;
