/* Tells of every call of a function. */
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "calls.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Set by the guest before the load: no call with a smaller first argument. */
const volatile long least;

/* Calls that were left out. */
unsigned long left_out;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} calls SEC(".maps");

/* So that the object describes the structure. */
const struct call *unused_call __attribute__((unused));

SEC("uprobe")
int on_call(struct pt_regs *ctx)
{
	struct call *call;
	long first = (int)PT_REGS_PARM1(ctx);

	if (first < least) {
		__sync_fetch_and_add(&left_out, 1);
		return 0;
	}
	call = bpf_ringbuf_reserve(&calls, sizeof(*call), 0);
	if (!call)
		return 0;
	call->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(call->comm, sizeof(call->comm));
	call->first = first;
	call->second = (int)PT_REGS_PARM2(ctx);
	bpf_ringbuf_submit(call, 0);
	return 0;
}
