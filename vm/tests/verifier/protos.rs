//! Prototypes of the kernel's tracing helpers, as the kernel declares them
//! (kernel/bpf/helpers.c, kernel/trace/bpf_trace.c, Linux 6.18), so that the
//! kernel's verdict and ours are about the same contract.

use uapi::helper::*;
use vm::helper::Arg::*;
use vm::helper::{Arg, Proto, Ret};

macro_rules! protos {
    ($($id:ident $name:literal $gpl:literal ($($arg:expr),*) -> $ret:ident;)*) => {
        &[$(Proto { id: $id, name: $name, args: &[$($arg),*] as &[Arg], ret: Ret::$ret, gpl_only: $gpl }),*]
    };
}

pub const PROTOS: &[Proto] = protos! {
    BPF_FUNC_MAP_LOOKUP_ELEM "map_lookup_elem" false (Map, MapKey) -> MapValueOrNull;
    BPF_FUNC_MAP_UPDATE_ELEM "map_update_elem" false (Map, MapKey, MapValue, Anything) -> Scalar;
    BPF_FUNC_MAP_DELETE_ELEM "map_delete_elem" false (Map, MapKey) -> Scalar;
    BPF_FUNC_PROBE_READ "probe_read" true (UninitMem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_KTIME_GET_NS "ktime_get_ns" false () -> Scalar;
    BPF_FUNC_TRACE_PRINTK "trace_printk" true (Mem, Size) -> Scalar;
    BPF_FUNC_GET_PRANDOM_U32 "get_prandom_u32" false () -> Scalar;
    BPF_FUNC_GET_SMP_PROCESSOR_ID "get_smp_processor_id" false () -> Scalar;
    BPF_FUNC_TAIL_CALL "tail_call" false (Ctx, Map, Anything) -> Void;
    BPF_FUNC_GET_CURRENT_PID_TGID "get_current_pid_tgid" false () -> Scalar;
    BPF_FUNC_GET_CURRENT_UID_GID "get_current_uid_gid" false () -> Scalar;
    BPF_FUNC_GET_CURRENT_COMM "get_current_comm" false (UninitMem, Size) -> Scalar;
    BPF_FUNC_PERF_EVENT_OUTPUT "perf_event_output" true (Ctx, Map, Anything, Mem, SizeOrZero) -> Scalar;
    BPF_FUNC_GET_STACKID "get_stackid" true (Ctx, Map, Anything) -> Scalar;
    BPF_FUNC_GET_CURRENT_TASK "get_current_task" true () -> Opaque;
    BPF_FUNC_GET_NUMA_NODE_ID "get_numa_node_id" false () -> Scalar;
    BPF_FUNC_PROBE_READ_STR "probe_read_str" true (UninitMem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_GET_STACK "get_stack" true (Ctx, UninitMem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_GET_CURRENT_CGROUP_ID "get_current_cgroup_id" false () -> Scalar;
    BPF_FUNC_PROBE_READ_USER "probe_read_user" true (UninitMem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_PROBE_READ_KERNEL "probe_read_kernel" true (UninitMem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_PROBE_READ_USER_STR "probe_read_user_str" true (UninitMem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_PROBE_READ_KERNEL_STR "probe_read_kernel_str" true (UninitMem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_GET_NS_CURRENT_PID_TGID "get_ns_current_pid_tgid" false (Anything, Anything, UninitMem, Size) -> Scalar;
    BPF_FUNC_KTIME_GET_BOOT_NS "ktime_get_boot_ns" false () -> Scalar;
    BPF_FUNC_RINGBUF_OUTPUT "ringbuf_output" false (Map, Mem, SizeOrZero, Anything) -> Scalar;
    BPF_FUNC_RINGBUF_RESERVE "ringbuf_reserve" false (Map, ConstAllocSize, Anything) -> RingbufRecordOrNull;
    BPF_FUNC_RINGBUF_SUBMIT "ringbuf_submit" false (RingbufRecord, Anything) -> Void;
    BPF_FUNC_RINGBUF_DISCARD "ringbuf_discard" false (RingbufRecord, Anything) -> Void;
    BPF_FUNC_RINGBUF_QUERY "ringbuf_query" false (Map, Anything) -> Scalar;
    BPF_FUNC_GET_CURRENT_TASK_BTF "get_current_task_btf" true () -> Opaque;
    BPF_FUNC_KTIME_GET_COARSE_NS "ktime_get_coarse_ns" false () -> Scalar;
    BPF_FUNC_GET_FUNC_IP "get_func_ip" true (Ctx) -> Scalar;
    BPF_FUNC_GET_ATTACH_COOKIE "get_attach_cookie" false (Ctx) -> Scalar;
    BPF_FUNC_TRACE_VPRINTK "trace_vprintk" true (Mem, Size, MemOrNull, SizeOrZero) -> Scalar;
    BPF_FUNC_STRNCMP "strncmp" false (Mem, Size, ConstStr) -> Scalar;
    BPF_FUNC_MAP_LOOKUP_PERCPU_ELEM "map_lookup_percpu_elem" false (Map, MapKey, Anything) -> MapValueOrNull;
    BPF_FUNC_KTIME_GET_TAI_NS "ktime_get_tai_ns" false () -> Scalar;
};

/// The prototype of a helper.
pub fn proto(id: u32) -> Option<&'static Proto> {
    PROTOS.iter().find(|p| p.id == id)
}
