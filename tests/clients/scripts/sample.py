#!/usr/bin/python3
# Counts samples of one thread by thread, with its task clock: `sample.py TID`.
import ctypes
import sys

from bcc import BPF, PerfSWConfig, PerfType

TEXT = """
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>
BPF_HASH(counts, u32);
int sampled(struct bpf_perf_event_data *ctx)
{
    u32 tid = bpf_get_current_pid_tgid();
    if (ctx->sample_period == 5000000)
        counts.increment(tid);
    return 0;
}
"""

bpf = BPF(text=TEXT)
bpf.attach_perf_event(
    ev_type=PerfType.SOFTWARE,
    ev_config=PerfSWConfig.TASK_CLOCK,
    fn_name="sampled",
    sample_period=5000000,
    pid=int(sys.argv[1]),
)
print("sampling", flush=True)
sys.stdin.readline()
for tid, count in bpf["counts"].items():
    print(tid.value, count.value)
